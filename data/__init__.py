"""Recordings of people: data sets (one file each in `datasets/`), person-level splits, features."""
