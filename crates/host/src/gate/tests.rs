use futures_util::{FutureExt as _, poll};
use proptest::prelude::*;

use super::*;

#[tokio::test]
async fn it_is_sealed_when_the_last_has_passed_and_lets_nobody_in_afterwards() {
    let passage = Passage::new([InstanceId("a-1".into())]);
    let own = passage.enter(true).expect("G4: calls may wait for it");
    let call = passage.enter(false).expect("G3");
    let mut sealing = Box::pin(passage.seal());
    assert!(poll!(&mut sealing).is_pending());
    assert!(passage.enter(true).is_none(), "G4: nobody waits for it any more");
    let inner = passage.enter(false).expect("G3: somebody may wait for it");
    drop((own, call));
    assert!(poll!(&mut sealing).is_pending(), "one passes");
    drop(inner);
    sealing.await;
    assert!(
        passage.enter(false).is_none() && passage.enter(true).is_none(),
        "G4"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_passes_while_it_is_being_sealed_and_is_not_waited_for() {
    for _ in 0..200 {
        let passage = Passage::new([]);
        let inside = Arc::new(AtomicU64::new(0));
        let callers: Vec<_> = (0..4)
            .map(|_| {
                let (passage, inside) = (passage.clone(), inside.clone());
                tokio::spawn(async move {
                    for _ in 0..100 {
                        let Some(pass) = passage.enter(false) else { break };
                        inside.fetch_add(1, Ordering::SeqCst);
                        tokio::task::yield_now().await;
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(pass);
                        tokio::task::yield_now().await;
                    }
                })
            })
            .collect();
        passage.seal().await;
        assert_eq!(inside.load(Ordering::SeqCst), 0, "G4");
        for caller in callers {
            caller.await.expect("no panic");
        }
        assert_eq!(inside.load(Ordering::SeqCst), 0, "G4");
    }
}

/// Plugins of the model; the first [`MEMBERS`] of them change as one.
const PLUGINS: usize = 5;
const MEMBERS: usize = 3;

/// Calls between plugins, some of which close their gates in the middle of it.
struct Model {
    passage: Arc<Passage>,
    closed: [bool; MEMBERS],
    is_sealed: bool,
    calls: Vec<ModelCall>,
}

struct ModelCall {
    plugin: usize,
    /// Who waits for it, if he has not given up.
    parent: Option<usize>,
    /// What it brings along.
    trail: Trail,
    is_own_accord: bool,
    at: At,
}

enum At {
    /// In the plugin: it came by the cell, or there is none.
    In,
    /// In the plugin: it passed the gate.
    Passed(#[expect(dead_code, reason = "held")] Pass),
    Gate,
    Over,
}

fn instance(plugin: usize) -> InstanceId {
    InstanceId(format!("{plugin}#1").into())
}

impl Model {
    fn new() -> Self {
        Self {
            passage: Passage::new((0..MEMBERS).map(instance)),
            closed: [false; MEMBERS],
            is_sealed: false,
            calls: Vec::new(),
        }
    }

    fn call(&mut self, plugin: usize, parent: Option<usize>, trail: Trail, is_own_accord: bool) {
        let at = if plugin >= MEMBERS || !self.closed[plugin] {
            At::In
        } else {
            match self.passage.lets_through(&trail, is_own_accord) {
                Some(pass) => At::Passed(pass),
                None => At::Gate,
            }
        };
        self.calls.push(ModelCall {
            plugin,
            parent,
            trail,
            is_own_accord,
            at,
        });
    }

    /// The one that is picked out of those that run.
    fn running(&self, pick: usize) -> Option<usize> {
        let running = |call: &ModelCall| matches!(call.at, At::In | At::Passed(_));
        let all: Vec<usize> = (0..self.calls.len())
            .filter(|it| running(&self.calls[*it]))
            .collect();
        (!all.is_empty()).then(|| all[pick % all.len()])
    }

    fn is_waited_for(&self, index: usize) -> bool {
        self.calls
            .iter()
            .any(|it| it.parent == Some(index) && !matches!(it.at, At::Over))
    }

    fn end(&mut self, index: usize) {
        self.calls[index].at = At::Over;
        for call in &mut self.calls {
            call.parent = call.parent.filter(|it| *it != index);
        }
    }

    fn seal(&mut self) {
        let by_cell = |it: &ModelCall| it.plugin < MEMBERS && matches!(it.at, At::In);
        if !self.closed.contains(&false) && !self.calls.iter().any(by_cell) {
            self.is_sealed |= self.passage.seal().now_or_never().is_some();
        }
    }

    fn step(&mut self, (what, pick, plugin): (u8, usize, usize)) {
        let plugin = plugin % PLUGINS;
        match what % 12 {
            0..2 => self.call(plugin, None, Trail::default(), false),
            2..7 => {
                if let Some(parent) = self.running(pick) {
                    let caller = &self.calls[parent];
                    let trail = caller.trail.through(instance(caller.plugin));
                    self.call(plugin, Some(parent), trail, false);
                }
            }
            // A caller that gives up leaves behind what it called.
            7..9 => drop(self.running(pick).map(|it| self.end(it))),
            9 => {
                let own = Trail::default().through(instance(pick % PLUGINS));
                self.call(plugin, None, own, true);
            }
            10 => self.closed[pick % MEMBERS] = true,
            _ => self.seal(),
        }
    }

    fn check(&self) {
        for call in &self.calls {
            let is_inside = call.plugin < MEMBERS && matches!(call.at, At::In | At::Passed(_));
            assert!(!(self.is_sealed && is_inside), "G4: a call is in an old one");
            if !matches!(call.at, At::Gate) || self.is_sealed || call.is_own_accord {
                continue;
            }
            let mut above = call.parent;
            while let Some(parent) = above {
                assert!(
                    self.calls[parent].plugin >= MEMBERS,
                    "G3: a drain waits for who waits at its gate"
                );
                above = self.calls[parent].parent;
            }
        }
    }
}

proptest! {
    #[test]
    fn whatever_calls_whom_every_drain_ends_and_nobody_is_left_inside(
        steps in proptest::collection::vec((any::<u8>(), any::<usize>(), any::<usize>()), 0..120),
    ) {
        let mut model = Model::new();
        for step in steps {
            model.step(step);
            model.check();
        }
        // Nothing new comes, all gates are closed, and everybody answers once he has his answers.
        model.closed = [true; MEMBERS];
        while let Some(index) = (0..model.calls.len()).find(|it| {
            !model.is_waited_for(*it) && matches!(model.calls[*it].at, At::In | At::Passed(_))
        }) {
            model.end(index);
        }
        model.seal();
        model.check();
        prop_assert!(model.is_sealed, "a call waits for its own plugin's drain");
    }
}
