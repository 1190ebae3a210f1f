//! Write a Mortise plugin: one trait, three runtimes.
