use super::*;

/// A plugin of two services, of which the manifest provides as many methods as `METHODS`.
struct Fake<const FIRST: u32, const SECOND: u32, const METHODS: u32>;

enum Nothing<const NUMBER: usize> {}

impl<P, const NUMBER: usize> MethodOf<P> for Nothing<NUMBER> {
    const SERVICE: &'static str = "fake.v1.Fake";
    const NAME: &'static str = ["A", "B", "C"][NUMBER];
    const FLAGS: u32 = 0;
    const WIRE_HASH: [u8; 32] = [0; 32];
    type Request = ();
    type Reply = ();

    fn call(_: &P, _: &Cx, (): ()) -> Result<()> {
        Ok(())
    }
}

impl<const FIRST: u32, const SECOND: u32, const METHODS: u32> Plugin for Fake<FIRST, SECOND, METHODS> {
    const BUILD: Build = Build {
        name: "fake",
        version: "1.0.0",
        methods: METHODS,
        concurrency: 1,
        contract_hash: [0; 32],
        lifecycle: Lifecycle::NONE,
    };
    const METADATA: &'static [u8] = &[];
    const SERVICES: &'static [Service<Self>] = &[
        Service {
            name: "fake.v1.B",
            first: SECOND,
            methods: &[Method::of::<Nothing<1>>(), Method::of::<Nothing<2>>()],
        },
        Service {
            name: "fake.v1.A",
            first: FIRST,
            methods: &[Method::of::<Nothing<0>>()],
        },
    ];

    fn start(_: &Cx) -> Result<Self> {
        Ok(Self)
    }
}

#[test]
fn numbers_lead_to_their_service_whatever_the_order() {
    type It = Fake<0, 1, 3>;
    check_services::<It>();
    let name = |number| method::<It>(number).map(|it| it.name);
    assert_eq!([0, 1, 2].map(name), [Some("A"), Some("B"), Some("C")]);
    assert_eq!([3, u32::MAX].map(name), [None, None]);
}

#[test]
#[should_panic(expected = "a service that this plugin implements is not in `provides`")]
fn a_service_that_is_not_provided_fails_the_build() {
    check_services::<Fake<0, { u32::MAX }, 1>>();
}

#[test]
#[should_panic(expected = "provides a service that this plugin does not implement")]
fn a_service_that_is_not_implemented_fails_the_build() {
    check_services::<Fake<0, 1, 4>>();
}

#[test]
#[should_panic(expected = "names the same service twice")]
fn a_service_named_twice_fails_the_build() {
    check_services::<Fake<1, 1, 3>>();
}
