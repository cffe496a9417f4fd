"""How fast a bundle is on this machine, where the time goes, and whether the figures can be trusted."""
