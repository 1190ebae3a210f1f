//! Makes thumbnails of PNG and JPEG images.
//!
//! The same image gives the same bytes in every runtime: [`thumbnail`] calculates with integers only, and the codecs do too.
#![forbid(unsafe_code)]

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
        Ok(ThumbnailReply {
            image: made.file,
            width: made.width,
            height: made.height,
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
