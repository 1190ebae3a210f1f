//! The machine against a model that knows only three facts: is there an instance, is it routed, is a predecessor standing by.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Default)]
struct Model {
    instance: bool,
    routed: bool,
    predecessor: bool,
    draining: bool,
    quarantined: bool,
}

impl Model {
    /// Performs the effects as the supervisor would, and checks what each presupposes.
    fn perform(&mut self, event: Event, effects: &[Effect]) {
        match event {
            Event::Started => self.instance = true,
            Event::CutOver => (self.routed, self.predecessor) = (true, true),
            Event::Crashed(_) => self.instance = false,
            Event::Replaced => self.routed = false,
            Event::Retry | Event::Load => self.quarantined = false,
            _ => {}
        }
        for effect in effects {
            match effect {
                Effect::Start => assert!(!self.instance, "I2: one instance at a time"),
                Effect::Route => {
                    assert!(self.instance, "I1: only what lives is routed");
                    self.routed = true;
                }
                Effect::Unroute => self.routed = false,
                Effect::RestorePredecessor => {
                    assert!(self.predecessor, "I7: there is one to put back");
                    (self.predecessor, self.routed) = (false, false);
                }
                Effect::ReleasePredecessor => {
                    assert!(self.predecessor, "I7: released once");
                    self.predecessor = false;
                }
                Effect::Drain => {
                    assert!(!self.routed, "I4: nothing new may come while it drains");
                    self.draining = true;
                }
                Effect::Stop => {
                    assert!(
                        self.instance && self.draining,
                        "I4: stopped instances hold no calls"
                    );
                    (self.instance, self.draining) = (false, false);
                }
                Effect::Discard => (self.instance, self.draining) = (false, false),
                Effect::QuarantineDigest => self.quarantined = true,
                Effect::Check
                | Effect::Prepare
                | Effect::CutOver
                | Effect::Watch
                | Effect::Release
                | Effect::ScheduleRestart(_) => {}
            }
        }
    }

    fn check(&self, state: State) {
        assert_eq!(self.routed, state.is_routed(), "I1 in {state}");
        assert!(!self.routed || self.instance, "I1 in {state}");
        assert_eq!(self.instance, state.has_instance(), "I3 in {state}");
        assert_eq!(self.predecessor, state == State::Probation, "I7 in {state}");
        if state == State::Quarantined {
            assert!(self.quarantined, "I6");
        }
    }
}

fn verdicts() -> impl Strategy<Value = Verdict> {
    prop_oneof![
        Just(Verdict::Stay),
        Just(Verdict::Quarantine),
        (0_u64..9).prop_map(|ms| Verdict::Restart {
            after: Duration::from_millis(ms)
        }),
    ]
}

fn events() -> impl Strategy<Value = Event> {
    let plain = prop::sample::select(Event::ALL.to_vec());
    prop_oneof![
        8 => plain,
        1 => verdicts().prop_map(Event::Crashed),
        1 => verdicts().prop_map(Event::StartFailed),
    ]
}

/// Random events alone hardly ever leave the first states: half of them are drawn from those that are possible.
fn run(picks: Vec<(Event, Option<prop::sample::Index>)>) {
    let (mut state, mut model) = (State::Absent, Model::default());
    for (random, steer) in picks {
        let possible: Vec<Event> = Event::ALL
            .into_iter()
            .filter(|it| step(state, *it).is_ok())
            .collect();
        let event = match steer {
            Some(index) => *index.get(&possible),
            None => random,
        };
        match step(state, event) {
            Ok((next, effects)) => {
                model.perform(event, &effects);
                model.check(next);
                state = next;
            }
            Err(refused) => {
                assert_eq!((refused.from, refused.event), (state, event.name()));
                assert!(!refused.allowed.is_empty(), "I5: {state} has a way out");
                assert!(
                    !refused.allowed.contains(&event.name()),
                    "I8: refused although it says it is allowed"
                );
            }
        }
    }
}

proptest! {
    #[test]
    fn invariants_hold_on_every_path(picks in prop::collection::vec((events(), any::<Option<prop::sample::Index>>()), 0..200)) {
        run(picks);
    }
}

#[test]
fn allowed_names_exactly_the_events_that_step_takes() {
    for state in State::ALL {
        for event in Event::ALL {
            let taken = step(state, event).is_ok();
            assert_eq!(
                state.allowed().contains(&event.name()),
                taken,
                "{event:?} in {state}"
            );
        }
    }
}

#[test]
fn retired_can_be_reached_from_every_state() {
    for start in State::ALL {
        let (mut seen, mut todo) = (vec![start], vec![start]);
        while let Some(state) = todo.pop() {
            for event in Event::ALL {
                if let Ok((next, _)) = step(state, event)
                    && !seen.contains(&next)
                {
                    seen.push(next);
                    todo.push(next);
                }
            }
        }
        assert!(
            seen.contains(&State::Retired),
            "I5: no way from {start} to RETIRED"
        );
        assert_eq!(
            seen.len(),
            State::ALL.len(),
            "every state can be reached from {start}"
        );
    }
}

#[test]
fn a_whole_life_asks_for_its_effects_in_order() {
    use Effect as Do;
    let life = [
        (Event::Load, State::Loaded, vec![Do::Check]),
        (Event::ChecksPassed, State::Checked, vec![Do::Prepare]),
        (Event::Prepared, State::Validated, vec![]),
        (Event::Activate, State::Starting, vec![Do::Start]),
        (Event::Started, State::Ready, vec![Do::CutOver]),
        (Event::CutOver, State::Probation, vec![Do::Watch]),
        (
            Event::ProbationPassed,
            State::Active,
            vec![Do::ReleasePredecessor],
        ),
        (Event::Replaced, State::Standby, vec![]),
        (Event::Restored, State::Active, vec![Do::Route]),
        (Event::Unload, State::Draining, vec![Do::Unroute, Do::Drain]),
        (Event::Drained, State::Stopped, vec![Do::Stop, Do::Release]),
        (Event::Released, State::Retired, vec![]),
        (Event::Forget, State::Absent, vec![]),
    ];
    let mut state = State::Absent;
    for (event, to, effects) in life {
        let expected = (to, effects);
        assert_eq!(step(state, event), Ok(expected));
        state = to;
    }
}

#[test]
fn a_refusal_says_what_would_be_possible() {
    let refused = step(State::Active, Event::Started).expect_err("ACTIVE was started already");
    assert_eq!(
        refused.to_string(),
        "`started` is not possible in state ACTIVE; possible are: replaced, unload, crashed"
    );
}
