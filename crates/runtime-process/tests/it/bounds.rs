//! The bound on processor time: asked for, required, felt and counted.

use mortise_jail::{Layer, Machine};
use mortise_runtime::RuntimeErrorKind;

use crate::{
    fake::Begin,
    fixture::{Bench, ask, eventually},
};

fn machine_has_it() -> bool {
    let layers = Machine::probe().layers();
    let has = layers.has(Layer::CpuCgroup);
    if !has {
        println!(
            "skipped: needs the layer cpu-cgroup: {}",
            layers.why_not(Layer::CpuCgroup).unwrap_or_default()
        );
    }
    has
}

#[tokio::test]
async fn a_plugin_that_spins_is_held_up_and_still_answers() {
    if !machine_has_it() {
        return;
    }
    let mut bench = Bench::new(Begin::Well);
    bench.limits.cpu_percent = Some(20);
    let instance = bench.start().await;
    let enclosure = instance.enclosure().unwrap();
    let layer = enclosure
        .layers
        .iter()
        .find(|it| it.name == "cpu-cgroup")
        .unwrap();
    assert!(
        layer.present && layer.detail.contains("20 % of one core"),
        "{layer:?}"
    );
    ask(&*instance, "spin").await.unwrap();
    let mut last = 0;
    for _ in 0..3 {
        last = eventually("it is held up once more", || {
            instance.usage().throttled_periods.filter(|it| *it > last)
        })
        .await;
    }
    let usage = instance.usage();
    assert!(usage.throttled_time.is_some_and(|it| !it.is_zero()), "{usage:?}");
    assert_eq!(ask(&*instance, "sleep 1").await.unwrap(), "slept");
}

#[tokio::test]
async fn without_a_bound_nothing_is_held_up_and_the_layer_is_said_to_be_absent() {
    if !machine_has_it() {
        return;
    }
    let bench = Bench::new(Begin::Well);
    let instance = bench.start().await;
    assert_eq!(instance.usage().throttled_periods, Some(0));
    let enclosure = instance.enclosure().unwrap();
    let layer = enclosure
        .layers
        .iter()
        .find(|it| it.name == "cpu-cgroup")
        .unwrap();
    assert_eq!(
        (layer.present, &*layer.detail),
        (false, "no such bound was asked for")
    );
}

#[tokio::test]
async fn a_required_bound_that_nobody_asked_for_is_a_refusal_that_says_what_to_set() {
    if !machine_has_it() {
        return;
    }
    let mut bench = Bench::with(Begin::Well, |config| {
        config.require.insert(Layer::CpuCgroup);
    });
    let refused = bench.try_start().await.err().unwrap();
    assert_eq!(refused.kind(), RuntimeErrorKind::Unsupported);
    assert!(
        refused.to_string().contains("names the layer `cpu-cgroup`"),
        "{refused}"
    );
    assert!(
        refused.hint().contains("limits.cpu_percent"),
        "{}",
        refused.hint()
    );
    assert!(bench.private_dirs().is_empty());
    bench.limits.cpu_percent = Some(100);
    bench.start().await;
}
