//! Decode, shrink, encode.
//!
//! Shrinking averages the area that a pixel of the thumbnail covers, with integer weights: exact, so the same on every machine.

use std::io::Cursor;

use image::{
    DynamicImage, ExtendedColorType, GenericImageView as _, ImageDecoder as _, ImageEncoder as _, ImageError,
    ImageFormat, ImageReader, Limits,
    codecs::{jpeg::JpegEncoder, png::PngEncoder},
};
use mortise_sdk::prelude::*;
use serde::Deserialize;

/// Longest side that may be asked for.
const SIDE_MAX: u32 = 4096;
/// Decoded pixels of an image: a small file may unfold to gigabytes.
const DECODED_BYTES_MAX: u64 = 64 << 20;
/// Rows of the thumbnail between two looks at whether anybody still waits for it.
const ROWS_PER_CHECK: usize = 64;

/// The operator's configuration.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Settings {
    /// Longer side of a thumbnail whose request names none.
    max_side: u32,
    /// Quality of JPEG files, 1 to 100.
    quality: u8,
}

/// Format of a thumbnail's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Png,
    Jpeg,
}

/// A finished thumbnail.
pub(crate) struct Thumbnail {
    pub(crate) file: Vec<u8>,
    pub(crate) width: u32,
    pub(crate) height: u32,
}

/// Pixels, row after row, `channels` bytes each.
struct Pixels<const CHANNELS: usize> {
    width: usize,
    height: usize,
    bytes: Vec<u8>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_side: 256,
            quality: 80,
        }
    }
}

impl Settings {
    pub(crate) fn read(cx: &Cx) -> Result<Self> {
        let settings: Self = cx.config()?;
        if !(1..=SIDE_MAX).contains(&settings.max_side) {
            let why = format!(
                "`max_side` is {}, and should be 1 to {SIDE_MAX}",
                settings.max_side
            );
            return Err(Status::failed_precondition(why));
        }
        if !(1..=100).contains(&settings.quality) {
            let why = format!("`quality` is {}, and should be 1 to 100", settings.quality);
            return Err(Status::failed_precondition(why));
        }
        Ok(settings)
    }
}

/// Makes the thumbnail of an image file.
pub(crate) fn make(
    cx: &Cx,
    settings: &Settings,
    file: &[u8],
    max_side: u32,
    format: Option<Format>,
) -> Result<Thumbnail> {
    let max_side = if max_side == 0 {
        settings.max_side
    } else {
        max_side
    };
    if max_side > SIDE_MAX {
        return Err(Status::invalid_argument(format_args!(
            "`max_side` is {max_side}, and {SIDE_MAX} is the most"
        )));
    }
    let (image, own_format) = decode(file)?;
    let format = format.unwrap_or(own_format);
    let (width, height) = fit(image.dimensions(), max_side);
    let file = if image.color().has_alpha() {
        let image = image.into_rgba8();
        let pixels = Pixels::<4> {
            width: image.width() as usize,
            height: image.height() as usize,
            bytes: image.into_raw(),
        };
        let small = shrink(cx, premultiply(pixels), width as usize, height as usize)?;
        match format {
            Format::Png => encode_png(&divide(small).bytes, width, height, ExtendedColorType::Rgba8)?,
            Format::Jpeg => encode_jpeg(&over_white(&small), width, height, settings.quality)?,
        }
    } else {
        let image = image.into_rgb8();
        let pixels = Pixels::<3> {
            width: image.width() as usize,
            height: image.height() as usize,
            bytes: image.into_raw(),
        };
        let small = shrink(cx, pixels, width as usize, height as usize)?;
        match format {
            Format::Png => encode_png(&small.bytes, width, height, ExtendedColorType::Rgb8)?,
            Format::Jpeg => encode_jpeg(&small.bytes, width, height, settings.quality)?,
        }
    };
    debug!(cx, { width = width, height = height, bytes = file.len() }, "made a thumbnail");
    Ok(Thumbnail { file, width, height })
}

/// The image, upright, and the format of its file.
fn decode(file: &[u8]) -> Result<(DynamicImage, Format)> {
    let mut limits = Limits::default();
    limits.max_alloc = Some(DECODED_BYTES_MAX);
    let mut reader = ImageReader::new(Cursor::new(file))
        .with_guessed_format()
        .map_err(Status::internal)?;
    reader.limits(limits);
    let format = match reader.format() {
        Some(ImageFormat::Png) => Format::Png,
        Some(ImageFormat::Jpeg) => Format::Jpeg,
        _ => {
            let why = format!("`image` ({} bytes) is neither a PNG nor a JPEG file", file.len());
            return Err(Status::invalid_argument(why));
        }
    };
    let mut decoder = reader.into_decoder().map_err(undecodable)?;
    let orientation = decoder.orientation().map_err(undecodable)?;
    let mut image = DynamicImage::from_decoder(decoder).map_err(undecodable)?;
    image.apply_orientation(orientation);
    Ok((image, format))
}

fn undecodable(error: ImageError) -> Status {
    match error {
        ImageError::Limits(error) => Status::resource_exhausted(format_args!(
            "`image` unfolds to more than {DECODED_BYTES_MAX} bytes: {error}"
        )),
        error => Status::invalid_argument(format_args!("`image` cannot be decoded: {error}")),
    }
}

/// The largest size within `max_side` of the same shape; never larger than the image, never empty.
fn fit((width, height): (u32, u32), max_side: u32) -> (u32, u32) {
    let longest = width.max(height);
    if longest <= max_side {
        return (width, height);
    }
    let scale = |side: u32| {
        let scaled = (u64::from(side) * u64::from(max_side) + u64::from(longest) / 2) / u64::from(longest);
        u32::try_from(scaled).unwrap_or(max_side).max(1)
    };
    (scale(width), scale(height))
}

/// Averages the area under each pixel of the result: first along rows, then down columns.
///
/// Lengths are counted in such units that a source pixel is `width` wide and a target pixel `image.width`; then every overlap is a whole
/// number, and the weights of one target pixel add up to `image.width * image.height`.
fn shrink<const N: usize>(cx: &Cx, image: Pixels<N>, width: usize, height: usize) -> Result<Pixels<N>> {
    if (image.width, image.height) == (width, height) {
        return Ok(image);
    }
    let total = (image.width * image.height) as u64;
    let columns: Vec<Vec<_>> = (0..width)
        .map(|it| overlaps(it, image.width, width).collect())
        .collect();
    let mut bytes = Vec::with_capacity(width * height * N);
    let mut sums = vec![[0_u64; N]; width];
    for y in 0..height {
        if y % ROWS_PER_CHECK == 0 {
            cx.check()?;
        }
        sums.fill([0; N]);
        for (row, row_weight) in overlaps(y, image.height, height) {
            let row = &image.bytes[row * image.width * N..][..image.width * N];
            let (row, _) = row.as_chunks::<N>();
            for (sum, column) in sums.iter_mut().zip(&columns) {
                let mut across = [0_u64; N];
                for &(x, weight) in column {
                    for (across, value) in across.iter_mut().zip(row[x]) {
                        *across += weight * u64::from(value);
                    }
                }
                for (sum, across) in sum.iter_mut().zip(across) {
                    *sum += row_weight * across;
                }
            }
        }
        let averages = sums.iter().flatten().map(|sum| ((sum + total / 2) / total) as u8);
        bytes.extend(averages);
    }
    Ok(Pixels { width, height, bytes })
}

/// Source pixels under target pixel `at`, each with the length of their overlap.
fn overlaps(at: usize, source: usize, target: usize) -> impl Iterator<Item = (usize, u64)> {
    let (begin, end) = (at * source, (at + 1) * source);
    (begin / target..end.div_ceil(target)).map(move |pixel| {
        let overlap = end.min((pixel + 1) * target) - begin.max(pixel * target);
        (pixel, overlap as u64)
    })
}

/// Colours weighted with their opacity, so that invisible ones do not bleed into the average.
fn premultiply(mut image: Pixels<4>) -> Pixels<4> {
    for pixel in image.bytes.as_chunks_mut::<4>().0 {
        let alpha = u32::from(pixel[3]);
        for colour in &mut pixel[..3] {
            *colour = ((u32::from(*colour) * alpha + 127) / 255) as u8;
        }
    }
    image
}

fn divide(mut image: Pixels<4>) -> Pixels<4> {
    for pixel in image.bytes.as_chunks_mut::<4>().0 {
        let alpha = u32::from(pixel[3]).max(1);
        for colour in &mut pixel[..3] {
            *colour = ((u32::from(*colour) * 255 + alpha / 2) / alpha).min(255) as u8;
        }
    }
    image
}

fn over_white(image: &Pixels<4>) -> Vec<u8> {
    let pixels = image.bytes.as_chunks::<4>().0.iter();
    pixels
        .flat_map(|[r, g, b, alpha]| [r, g, b].map(|it| it.saturating_add(255 - alpha)))
        .collect()
}

fn encode_png(pixels: &[u8], width: u32, height: u32, colour: ExtendedColorType) -> Result<Vec<u8>> {
    let mut file = Vec::new();
    PngEncoder::new(&mut file)
        .write_image(pixels, width, height, colour)
        .map_err(Status::internal)?;
    Ok(file)
}

fn encode_jpeg(pixels: &[u8], width: u32, height: u32, quality: u8) -> Result<Vec<u8>> {
    let mut file = Vec::new();
    JpegEncoder::new_with_quality(&mut file, quality)
        .write_image(pixels, width, height, ExtendedColorType::Rgb8)
        .map_err(Status::internal)?;
    Ok(file)
}

#[cfg(test)]
#[path = "thumbnail/tests.rs"]
mod tests;
