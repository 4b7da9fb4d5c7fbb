//! Inverts a PNG image and blurs it twice.
//!
//! `invert [IN [OUT]]`: a path that is missing or `-` means standard input or output. Says on standard error what it did.

use std::error::Error;
use std::fs;
use std::io::{self, Cursor, Read, Write};

use image::{ImageFormat, RgbaImage, imageops};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let picture = invert(&read(args.next().as_deref())?)?;

    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, ImageFormat::Png)?;
    match args.next().as_deref() {
        None | Some("-") => io::stdout().lock().write_all(bytes.get_ref())?,
        Some(path) => fs::write(path, bytes.get_ref())?,
    }
    eprintln!("inverted {} x {} pixels", picture.width(), picture.height());
    Ok(())
}

fn read(path: Option<&str>) -> io::Result<Vec<u8>> {
    match path {
        None | Some("-") => {
            let mut bytes = Vec::new();
            io::stdin().lock().read_to_end(&mut bytes)?;
            Ok(bytes)
        }
        Some(path) => fs::read(path),
    }
}

fn invert(png: &[u8]) -> Result<RgbaImage, Box<dyn Error>> {
    let mut picture = image::load_from_memory_with_format(png, ImageFormat::Png)?.to_rgba8();
    imageops::invert(&mut picture);
    // The blur of a box, twice, weighs something and uses only integers: every machine gives the same bytes.
    for _ in 0..2 {
        picture = box_blur(&picture);
    }
    Ok(picture)
}

fn box_blur(picture: &RgbaImage) -> RgbaImage {
    const RADIUS: u32 = 2;
    RgbaImage::from_fn(picture.width(), picture.height(), |x, y| {
        let (mut sums, mut count) = ([0_u32; 4], 0);
        for y in y.saturating_sub(RADIUS)..picture.height().min(y + RADIUS + 1) {
            for x in x.saturating_sub(RADIUS)..picture.width().min(x + RADIUS + 1) {
                for (sum, part) in sums.iter_mut().zip(picture.get_pixel(x, y).0) {
                    *sum += u32::from(part);
                }
                count += 1;
            }
        }
        image::Rgba(sums.map(|sum| (sum / count) as u8))
    })
}
