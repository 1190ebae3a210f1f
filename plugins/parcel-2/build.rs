fn main() {
    mortise_build::Builder::new()
        .extern_path(".mortise.test.parcel.v1.Parcel", "crate::plugin::Sealed")
        .run();
}
