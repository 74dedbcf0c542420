"""Tests of the libraries on this machine."""
