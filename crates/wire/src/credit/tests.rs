use proptest::prelude::*;

use super::*;

#[test]
fn a_frame_costs_at_least_one_unit() {
    assert_eq!(units(0), 1);
    assert_eq!(units(UNIT_BYTES - crate::frame::HEADER_BYTES), 1);
    assert_eq!(units(UNIT_BYTES), 2);
    assert_eq!(units(usize::MAX), u32::MAX);
    assert!(window(u32::MAX) >= units(u32::MAX as usize));
    assert_eq!(window(0), LANE_UNITS_MIN);
}

#[test]
fn more_than_the_window_is_refused() {
    let inflow = Inflow::new(4);
    assert_eq!(inflow.take(0), Ok(1));
    assert_eq!(inflow.take(2 * UNIT_BYTES), Ok(3));
    assert_eq!(
        inflow.take(0).unwrap_err(),
        CreditError::Overdrawn { units: 1, left: 0 }
    );
    assert_eq!(inflow.give_back(1), Some(1));
    assert_eq!(inflow.take(0), Ok(1));
}

#[test]
fn what_was_not_used_cannot_be_given_back() {
    let outflow = Outflow::new(8);
    assert!(outflow.try_use(3));
    outflow.returned(2).unwrap();
    assert_eq!(
        outflow.returned(u32::MAX).unwrap_err(),
        CreditError::NeverUsed {
            units: u32::MAX,
            used: 1
        }
    );
}

proptest! {
    /// Two honest sides, frames of any length in any order: no frame is refused, no credit is lost, and whoever waits for a frame of up to half the
    /// window gets it once everything before is done with.
    #[test]
    fn honest_sides_never_disagree(
        window in LANE_UNITS_MIN..2048u32,
        steps in prop::collection::vec((any::<bool>(), 1u32..1024), 1..300),
    ) {
        let (outflow, inflow) = (Outflow::new(window), Inflow::new(window));
        let mut held: Vec<u32> = Vec::new();
        let give = |units: u32| -> Result<(), CreditError> {
            inflow.give_back(units).map_or(Ok(()), |units| outflow.returned(units))
        };
        for (send, cost) in steps {
            let cost = cost.min(window / 2);
            if send && outflow.try_use(cost) {
                let body = cost as usize * UNIT_BYTES - crate::frame::HEADER_BYTES;
                prop_assert_eq!(inflow.take(body), Ok(cost));
                held.push(cost);
            } else if let Some(units) = held.pop() {
                give(units)?;
            }
        }
        for units in held.drain(..) {
            give(units)?;
        }
        prop_assert!(outflow.try_use(window / 2));
    }

    /// However small the window and however long the messages, the next one can be sent once everything before it was taken; and no more messages than
    /// agreed are on the way.
    #[test]
    fn a_stream_never_stalls(
        messages in 0u32..70_000,
        bytes in 0u32..1 << 30,
        sizes in prop::collection::vec((0usize..1 << 31, any::<bool>()), 1..200),
    ) {
        let terms = StreamTerms::new(messages, bytes);
        let (outflow, inflow) = (Outflow::new(terms.window()), Inflow::new(terms.window()));
        let mut held = Vec::new();
        for (size, read) in sizes {
            let price = terms.price(size);
            while !outflow.try_use(price) {
                prop_assert!(!held.is_empty(), "{price} of {terms:?} could not be had from an empty window");
                if let Some(units) = inflow.give_back(held.remove(0)) {
                    outflow.returned(units)?;
                }
            }
            held.push(inflow.take_units(price)?);
            prop_assert!(held.len() <= messages.max(1) as usize);
            if read && let Some(units) = inflow.give_back(held.remove(0)) {
                outflow.returned(units)?;
            }
        }
    }

    /// A hostile side: any sequence of sizes is either taken within the window or refused.
    #[test]
    fn what_is_held_is_never_more_than_the_window(window in 1u32..64, sizes in prop::collection::vec(0usize..1 << 20, 0..64)) {
        let inflow = Inflow::new(window);
        let mut held = 0;
        for size in sizes {
            match inflow.take(size) {
                Ok(units) => held += units,
                Err(CreditError::Overdrawn { left, .. }) => prop_assert_eq!(left, window - held),
                Err(other) => prop_assert!(false, "{other}"),
            }
            prop_assert!(held <= window);
        }
    }
}
