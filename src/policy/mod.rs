//! (operation, socket) → verdict, reason, rule and class. Pure: no I/O, no clock, no state.
