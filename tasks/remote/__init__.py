"""Artefacts in an S3 bucket."""
