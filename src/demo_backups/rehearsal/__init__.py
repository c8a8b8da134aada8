"""The throwaway demo server: a whole release phase, for real, on this machine."""
