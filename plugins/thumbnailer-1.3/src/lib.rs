//! The thumbnailer's next version: its reply says which version made the thumbnail.
//!
//! It shares the older version's source and adds a field, which is a compatible change: callers of 1.2 go on working.
#![forbid(unsafe_code)]

#[path = "../../thumbnailer/src/thumbnail.rs"]
mod thumbnail;

use mortise_sdk::prelude::*;

mortise_sdk::contract!();
use contract::{Format, ThumbnailReply, ThumbnailRequest, Thumbnailer};

struct Plugin {
    settings: thumbnail::Settings,
}

#[mortise_sdk::plugin(start = Self::open)]
impl Thumbnailer for Plugin {
    fn thumbnail(&self, cx: &Cx, request: ThumbnailRequest) -> Result<ThumbnailReply> {
        let format = match request.format() {
            Format::Unspecified => None,
            Format::Png => Some(thumbnail::Format::Png),
            Format::Jpeg => Some(thumbnail::Format::Jpeg),
        };
        let made = thumbnail::make(cx, &self.settings, &request.image, request.max_side, format)?;
        let generator_version = concat!("thumbnailer ", env!("CARGO_PKG_VERSION")).to_owned();
        Ok(ThumbnailReply {
            image: made.file,
            width: made.width,
            height: made.height,
            generator_version,
        })
    }
}

impl Plugin {
    fn open(cx: &Cx) -> Result<Self> {
        Ok(Self {
            settings: thumbnail::Settings::read(cx)?,
        })
    }
}
