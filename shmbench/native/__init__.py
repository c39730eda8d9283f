"""The native core: what runs between two clock reads, or must not hold the GIL."""
