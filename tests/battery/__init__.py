"""The fault battery: many tries, each with one fault, and what must be intact after it. `./inv battery` runs it."""
