//! The host: supervisors, admission, swap, probation, journal.
