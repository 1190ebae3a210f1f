//! From an `impl` block to a plugin.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::{Error, ImplItem, Item, ItemImpl, Path, Result, spanned::Spanned as _};

use crate::options::Options;

/// The item as it was, and what makes its type a plugin. If it cannot be one, the item and the reason: the user then sees one error and not
/// a dozen about a missing `impl`.
pub(crate) fn expand(options: &Options, item: &Item) -> TokenStream {
    match plugin(options, item) {
        Ok(plugin) => quote! { #item #plugin },
        Err(error) => {
            let error = error.into_compile_error();
            quote! { #item #error }
        }
    }
}

fn plugin(options: &Options, item: &Item) -> Result<TokenStream> {
    let (item, service) = check(item)?;
    let plugin = &item.self_ty;
    let services = std::iter::once(service)
        .chain(options.also.iter().flatten())
        .map(|service| {
            quote_spanned! { service.span() => <Self as #service>::SERVICE }
        });
    let start = match &options.start {
        Some(start) => quote_spanned! { start.span() => #start(cx) },
        None => {
            let span = plugin.span();
            quote_spanned! { span => { let _ = cx; ::core::result::Result::Ok(<Self as ::core::default::Default>::default()) } }
        }
    };
    let health = options.health.as_ref().map(|health| {
        let call = quote_spanned! { health.span() => #health(self) };
        quote! { fn health(&self) -> ::mortise_sdk::Result<()> { #call } }
    });
    let stop = options.stop.as_ref().map(|stop| {
        let call = quote_spanned! { stop.span() => #stop(self) };
        quote! { fn stop(&self) { #call } }
    });
    let lifecycle = lifecycle(options, plugin);
    let generated = options.generated.iter().collect::<Vec<_>>();
    let export = options
        .export
        .unwrap_or(true)
        .then(|| quote! { ::mortise_sdk::__export!(#plugin #(, #generated)*); });
    Ok(quote! {
        impl ::mortise_sdk::guest::Plugin for #plugin {
            const BUILD: ::mortise_sdk::guest::Build = ::mortise_sdk::__build!(#(#generated)*);
            const METADATA: &'static [u8] = ::mortise_sdk::__metadata!(#(#generated)*);
            const SERVICES: &'static [::mortise_sdk::guest::Service<Self>] = &[#(#services),*];

            fn start(cx: &::mortise_sdk::Cx) -> ::mortise_sdk::Result<Self> {
                #start
            }
            #health
            #stop
            #lifecycle
        }
        #export
    })
}

/// What the plugin answers about its own life.
fn lifecycle(options: &Options, plugin: &syn::Type) -> TokenStream {
    let stateful = options.stateful.as_ref().map(|word| {
        let (save, load) = (
            quote_spanned! { word.span() => ::mortise_sdk::lifecycle::save::<#plugin>(self, cx) },
            quote_spanned! { word.span() => ::mortise_sdk::lifecycle::load::<#plugin>(self, cx, saved, migrate) },
        );
        quote! {
            const STATEFUL: bool = true;
            fn save_state(&self, cx: &::mortise_sdk::Cx) -> ::mortise_sdk::Result<::std::vec::Vec<u8>> { #save }
            fn load_state(
                &self,
                cx: &::mortise_sdk::Cx,
                saved: &::mortise_sdk::lifecycle::Saved,
                migrate: bool,
            ) -> ::mortise_sdk::Result<()> { #load }
        }
    });
    let Options {
        veto,
        post_load,
        pre_unload,
        configure,
        ..
    } = options;
    let hooks = (veto.is_some() || post_load.is_some() || pre_unload.is_some())
        .then(|| quote! { const HOOKS: bool = true; });
    let veto = veto.as_ref().map(|path| {
        let call = quote_spanned! { path.span() => #path(self, cx, successor) };
        quote! {
            fn may_replace(
                &self,
                cx: &::mortise_sdk::Cx,
                successor: &::mortise_sdk::lifecycle::Successor,
            ) -> ::mortise_sdk::Result<()> { #call }
        }
    });
    let post_load = post_load.as_ref().map(|path| {
        let call = quote_spanned! { path.span() => #path(self, cx, origin) };
        quote! {
            fn post_load(
                &self,
                cx: &::mortise_sdk::Cx,
                origin: ::mortise_sdk::lifecycle::Origin,
            ) -> ::mortise_sdk::Result<()> { #call }
        }
    });
    let pre_unload = pre_unload.as_ref().map(|path| {
        let call = quote_spanned! { path.span() => #path(self, cx) };
        quote! { fn pre_unload(&self, cx: &::mortise_sdk::Cx) -> ::mortise_sdk::Result<()> { #call } }
    });
    let configure = configure.as_ref().map(|path| {
        let call = quote_spanned! { path.span() => #path(self, cx, new) };
        quote! {
            const CONFIGURABLE: bool = true;
            fn configure(
                &self,
                cx: &::mortise_sdk::Cx,
                new: &::mortise_sdk::lifecycle::NewConfig<'_>,
            ) -> ::mortise_sdk::Result<::mortise_sdk::lifecycle::Configured> { #call }
        }
    });
    quote! { #stateful #hooks #veto #post_load #pre_unload #configure }
}

fn check(item: &Item) -> Result<(&ItemImpl, &Path)> {
    const WHERE: &str =
        "put #[plugin] on `impl Trait for Type`, with a trait that mortise-build generated from the contract";
    let Item::Impl(item) = item else {
        return Err(Error::new(
            item.span(),
            format!("this is not an impl block; {WHERE}"),
        ));
    };
    let Some((_, service, _)) = &item.trait_ else {
        return Err(Error::new(
            item.self_ty.span(),
            format!("this impl block is not of a trait; {WHERE}"),
        ));
    };
    if !item.generics.params.is_empty() {
        let why = "a plugin is one type and has no parameters; name the types here, or wrap it in a struct";
        return Err(Error::new(item.generics.span(), why));
    }
    if let Some(unsafety) = &item.unsafety {
        return Err(Error::new(
            unsafety.span(),
            "a generated trait is not unsafe; take the word away",
        ));
    }
    for it in &item.items {
        if let ImplItem::Const(constant) = it {
            let why = format!(
                "`{}` is what connects the trait to its contract; take it away",
                constant.ident
            );
            return Err(Error::new(constant.ident.span(), why));
        }
        if let ImplItem::Fn(method) = it
            && let Some(asyncness) = &method.sig.asyncness
        {
            let why = "a method is not `async`: it may block, and the host runs others meanwhile; take the word away";
            return Err(Error::new(asyncness.span(), why));
        }
    }
    Ok((item, service))
}
