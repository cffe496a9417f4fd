"""The bundle: one folder of engines that a station can trust (docs/bundle.md)."""
