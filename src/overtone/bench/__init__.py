"""Speed and memory, measured beside what a user would take instead (`overtone bench`)."""
