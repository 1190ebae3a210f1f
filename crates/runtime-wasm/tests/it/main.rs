//! The runtime against guests that misbehave, in every ABI.
#![expect(unreachable_pub, reason = "a test binary has no outside")]

mod guests;
mod world;

mod cache;
mod calls;
mod direct;
mod interrupt;
mod languages;
mod limits;
mod refuse;
mod tiers;
