//! How many objects a chunk has: a submission is cut into chunks whose paths, log entry and progress stay small.

use crate::state::chunks::Params;

/// Objects in one chunk.
const CHUNK_LINES_MAX: usize = 500;

/// Objects in one chunk, times the variants in which a prefetch fetches them: the progress of a chunk is one value, which
/// is written whole several times a second.
const CHUNK_VARIANTS_MAX: usize = 2000;

/// Bytes of the paths in one chunk, so that its log entry fits in a message of the link with room to spare.
const CHUNK_BYTES_MAX: usize = 128 << 10;

/// How many objects a chunk with these parameters may have.
pub(super) fn chunk_lines_max(params: &Params) -> usize {
    (CHUNK_VARIANTS_MAX / params.variants.len().max(1)).clamp(1, CHUNK_LINES_MAX)
}

/// Splits paths into chunks of at most `most`, and within the bound of bytes; a single path is far below that.
pub(super) fn cut_paths(paths: &[String], most: usize) -> impl Iterator<Item = &[String]> {
    let mut rest = paths;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = |path: &&String| {
            bytes += path.len() + 1;
            bytes <= CHUNK_BYTES_MAX
        };
        let count = rest.iter().take(most).take_while(fits).count().max(1).min(rest.len());
        let (chunk, after) = rest.split_at(count);
        rest = after;
        (!chunk.is_empty()).then_some(chunk)
    })
}
