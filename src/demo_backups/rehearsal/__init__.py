"""The rehearsal: a complete release phase on a throwaway server on this machine."""
