//! The machine against a small world: files that change with and without a trace, and looks at any times.

use proptest::prelude::*;

use super::*;

const QUIET: Duration = Duration::from_millis(100);

/// What happens to the one folder of the world.
#[derive(Clone, Copy, Debug)]
enum Act {
    /// Its bytes change, and so does its print.
    Write,
    /// Its bytes change without a trace: coarse times, same size.
    WriteUnseen,
    /// It is taken away.
    Remove,
    /// It is put (back).
    Put,
    /// Nothing.
    Rest,
}

/// The world: what is true, whether anybody looks or not.
#[derive(Debug)]
struct World {
    now: Duration,
    print: u8,
    bytes: u8,
    there: bool,
    /// When the bytes changed last, and when a look last showed the folder.
    changed: Duration,
    present: Duration,
    /// Whether the file system's times can be compared with ours. Then nothing changes without a trace.
    ages: bool,
}

impl World {
    fn new(ages: bool) -> Self {
        Self {
            now: Duration::ZERO,
            print: 0,
            bytes: 0,
            there: false,
            changed: Duration::ZERO,
            present: Duration::ZERO,
            ages,
        }
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Write if self.there => {
                self.print = self.print.wrapping_add(1);
                self.bytes = self.bytes.wrapping_add(1);
                self.changed = self.now;
            }
            Act::WriteUnseen if self.there && !self.ages => {
                self.bytes = self.bytes.wrapping_add(1);
                self.changed = self.now;
            }
            Act::Remove => self.there = false,
            Act::Put => self.there = true,
            _ => {}
        }
    }

    fn looks(&self) -> BTreeMap<OsString, Look> {
        let look = Look {
            print: Print([self.print; 32]),
            age: self.ages.then(|| self.now - self.changed),
        };
        self.there.then(|| ("a".into(), look)).into_iter().collect()
    }

    /// One look, with everything that may be said of its answer whatever happened before.
    fn look(&mut self, settling: &mut Settling, known: &mut bool) -> Vec<Event> {
        if self.there {
            self.present = self.now;
        }
        let (bytes, looks) = (self.bytes, self.looks());
        let events = settling.step(self.now, &looks, &BTreeSet::new(), |_| [bytes; 32]);
        for event in &events {
            match event {
                Event::Settled(_, print) => {
                    assert_eq!(
                        print,
                        &Print([self.print; 32]),
                        "W1: what is told is what is there"
                    );
                    let least = if self.ages { QUIET } else { QUIET / 2 };
                    assert!(
                        self.now - self.changed >= least,
                        "W1: changed {:?} ago",
                        self.now - self.changed
                    );
                    *known = true;
                }
                Event::Gone(_) => {
                    assert!(*known && !self.there, "W3: it was never settled, or it is there");
                    assert!(self.now - self.present >= QUIET, "W3: it was seen a moment ago");
                    *known = false;
                }
            }
        }
        assert!(settling.folders.len() <= 1, "W4");
        events
    }
}

fn acts() -> impl Strategy<Value = Vec<(Act, u64, bool)>> {
    let act = prop_oneof![
        3 => Just(Act::Write),
        2 => Just(Act::WriteUnseen),
        1 => Just(Act::Remove),
        2 => Just(Act::Put),
        4 => Just(Act::Rest),
    ];
    proptest::collection::vec((act, 0_u64..90, any::<bool>()), 0..60)
}

proptest! {
    /// Whatever happens and whenever somebody looks: nothing is told that is not so, and nothing twice (W1, W2, W3).
    #[test]
    fn nothing_is_told_too_early_or_twice(ages in any::<bool>(), acts in acts()) {
        let (mut world, mut settling, mut known) = (World::new(ages), Settling::new(QUIET), false);
        let mut told = None;
        for (act, ms, look) in acts {
            world.now += Duration::from_millis(ms);
            world.act(act);
            if !look {
                continue;
            }
            for event in world.look(&mut settling, &mut known) {
                match event {
                    Event::Settled(_, print) => {
                        prop_assert_ne!(told.replace(print), Some(print), "W2");
                    }
                    Event::Gone(_) => told = None,
                }
            }
            if world.there && told.is_some() && told != Some(Print([world.print; 32])) {
                told = None;
            }
        }
    }

    /// Once everything rests, looking when the machine asks for it comes to the truth within three quiet times, in a few looks.
    #[test]
    fn rest_is_noticed(ages in any::<bool>(), acts in acts()) {
        let (mut world, mut settling, mut known) = (World::new(ages), Settling::new(QUIET), false);
        for (act, ms, look) in acts {
            world.now += Duration::from_millis(ms);
            world.act(act);
            if look {
                world.look(&mut settling, &mut known);
            }
        }
        let rests_since = world.now;
        world.look(&mut settling, &mut known);
        let mut looks = 1;
        while let Some(due) = settling.next(&world.looks()) {
            prop_assert!(due > world.now, "a look that can say nothing new");
            world.now = due;
            world.look(&mut settling, &mut known);
            looks += 1;
            prop_assert!(looks <= 6, "{settling:?}");
        }
        prop_assert_eq!(known, world.there);
        prop_assert!(world.now - rests_since <= QUIET * 3);
        prop_assert_eq!(settling.folders.is_empty(), !world.there, "W4");
    }
}

#[test]
fn an_old_folder_settles_at_the_first_look() {
    let mut settling = Settling::new(QUIET);
    let look = |age| {
        BTreeMap::from([(
            OsString::from("a"),
            Look {
                print: Print([1; 32]),
                age,
            },
        )])
    };
    let never = |_: &OsString| -> Content { panic!("its age says it all") };
    let young = look(Some(Duration::from_millis(60)));
    assert_eq!(settling.step(Duration::ZERO, &young, &BTreeSet::new(), never), []);
    assert_eq!(settling.next(&young), Some(Duration::from_millis(40)));
    let settled = [Event::Settled("a".into(), Print([1; 32]))];
    assert_eq!(
        settling.step(
            Duration::from_millis(1),
            &look(Some(QUIET)),
            &BTreeSet::new(),
            never
        ),
        settled
    );
    assert_eq!(settling.next(&look(Some(QUIET))), None);
}

#[test]
fn a_swap_of_folders_is_no_removal() {
    let mut settling = Settling::new(QUIET);
    let look = |print| {
        BTreeMap::from([(
            OsString::from("a"),
            Look {
                print: Print([print; 32]),
                age: Some(QUIET),
            },
        )])
    };
    let never = |_: &OsString| -> Content { panic!("its age says it all") };
    assert_eq!(
        settling
            .step(Duration::ZERO, &look(1), &BTreeSet::new(), never)
            .len(),
        1
    );
    assert_eq!(
        settling.step(QUIET, &BTreeMap::new(), &BTreeSet::new(), never),
        [],
        "rm -r a"
    );
    let settled = [Event::Settled("a".into(), Print([2; 32]))];
    assert_eq!(
        settling.step(
            QUIET * 2 - Duration::from_millis(1),
            &look(2),
            &BTreeSet::new(),
            never
        ),
        settled,
        "mv b a"
    );
}

#[test]
fn what_cannot_be_looked_at_is_not_gone() {
    let mut settling = Settling::new(QUIET);
    let seen = BTreeMap::from([(
        OsString::from("a"),
        Look {
            print: Print([1; 32]),
            age: Some(QUIET),
        },
    )]);
    let (nothing, unsure) = (BTreeMap::new(), BTreeSet::from([OsString::from("a")]));
    let sure = BTreeSet::new();
    let never = |_: &OsString| -> Content { panic!("its age says it all") };
    assert_eq!(settling.step(Duration::ZERO, &seen, &sure, never).len(), 1);
    for round in 1..10 {
        assert_eq!(settling.step(QUIET * round, &nothing, &unsure, never), []);
    }
    assert_eq!(
        settling.step(QUIET * 10, &seen, &sure, never),
        [],
        "it is what it was"
    );
    assert_eq!(settling.step(QUIET * 11, &nothing, &sure, never), []);
    let gone = [Event::Gone("a".into())];
    assert_eq!(settling.step(QUIET * 12, &nothing, &sure, never), gone);
}
