#!/bin/sh
# KL against GPTQModel at its own settings; see accuracy.py.
exec python3 tests/slow/accuracy.py
