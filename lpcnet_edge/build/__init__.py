"""Weights to a bundle of engines: export, calibration, quantisation, compilation."""
