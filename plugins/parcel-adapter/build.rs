fn main() {
    mortise_build::plugin();
}
