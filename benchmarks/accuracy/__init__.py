"""Benchmarks of accuracy and calibration."""
