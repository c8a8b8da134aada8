"""The release plan: its steps, the facts they rest on, and how each step is done."""
