//! A cell whose readers pay two plain stores: hazard pointers with an asymmetric barrier.
