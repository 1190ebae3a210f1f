//! The attribute `#[plugin]`: on the `impl` of a contract's trait, it makes the type a plugin.
//!
//! This crate looks at tokens only: it reads no file and knows no contract. What the contract has to say is in the trait's constants
//! and in what `mortise-build` left in `$OUT_DIR`. The symbols that a host looks for are written by `mortise_sdk::__export!`, so that
//! every unsafe token belongs to `mortise-sdk`.
#![forbid(unsafe_code)]

mod expand;
mod options;

use proc_macro::TokenStream;
use syn::parse_macro_input;

/// Makes a type a plugin. Stands on the `impl` of the trait that `mortise-build` generated for a service.
///
/// ```ignore
/// #[mortise_sdk::plugin(start = Self::open, health = Self::health, also(Admin))]
/// impl Thumbnailer for MyPlugin { .. }
/// ```
///
/// | option | what | default |
/// |---|---|---|
/// | `start = path` | `fn(&Cx) -> Result<Self>`: makes the plugin; an error refuses to start | `Default::default()` |
/// | `health = path` | `fn(&Self) -> Result<()>`: an error is the reason why it cannot serve | always serving |
/// | `stop = path` | `fn(&Self)`: after the last call | nothing |
/// | `stateful` | the type implements `mortise_sdk::Stateful`, for the `[state]` of `plugin.toml` | it carries nothing on |
/// | `veto = path` | `fn(&Self, &Cx, &Successor) -> Result<()>`: an error is the reason why it is not to be replaced now | it may be |
/// | `post_load = path` | `fn(&Self, &Cx, Origin) -> Result<()>`: it has its state, and calls follow; an error refuses to serve | nothing |
/// | `pre_unload = path` | `fn(&Self, &Cx) -> Result<()>`: it is let go, and no call will follow | nothing |
/// | `configure = path` | `fn(&Self, &Cx, &NewConfig<'_>) -> Result<Configured>`: takes a new configuration, for `hot = true` in `[config]`; an error refuses it | a new instance is started with it |
/// | `also(Trait, ..)` | further services of the same type, each with an `impl` of its own | none |
/// | `generated = "dir"` | the folder of the crate where generated code is committed | `$OUT_DIR` |
/// | `export = false` | no symbols: the type is a plugin, but the crate is not. For hosts that compile plugins in, and tests | `true` |
///
/// All services together must be those that `provides` in `plugin.toml` names; the build fails if they are not. A crate has one
/// `#[plugin]` with symbols.
#[proc_macro_attribute]
pub fn plugin(options: TokenStream, item: TokenStream) -> TokenStream {
    let options = parse_macro_input!(options as options::Options);
    let item = parse_macro_input!(item as syn::Item);
    expand::expand(&options, &item).into()
}
