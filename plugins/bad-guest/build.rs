//! Writes the metadata, as for any plugin. What else it writes is not used: this plugin has no SDK.

fn main() {
    mortise_build::plugin();
}
