"""The papers' formulas written out, as a reader would who has never been told to hurry: what the
layers of Overtone are compared with, in speed and in their results."""
