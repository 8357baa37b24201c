"""The engine room: everything here only makes a network or its maps faster."""
