//! Synthetic traces similar to those of a CDN node: Zipf popularity with churn, one-hit wonders, a mix of sizes, and
//! scans.

use std::collections::HashMap;

/// Largest object, in bytes.
pub(crate) const BYTES_MAX: usize = 512 << 10;

/// One request.
pub(crate) struct Request {
    pub object: u64,
    pub bytes: u64,
}

/// A sequence of requests.
pub(crate) struct Trace {
    pub name: &'static str,
    pub requests: Vec<Request>,
    /// Total size of all requested objects, in bytes.
    pub bytes: u64,
}

/// The parameters of a trace.
struct Shape {
    name: &'static str,
    requests: usize,
    /// Number of objects that are popular at a time.
    objects: usize,
    /// Exponent of the Zipf distribution.
    skew: f64,
    /// Percentage of requests for objects that are requested only once.
    wonders: u64,
    /// Percentage of popular objects that are replaced by new ones over the whole trace.
    churn: u64,
    /// Number of scans: runs of requests for cold objects, one after another.
    scans: usize,
    /// Objects per scan.
    scan: u64,
    /// Size classes: percentage, smallest and largest size in bytes.
    sizes: &'static [(u64, u64, u64)],
}

const SHAPES: [Shape; 5] = [
    Shape {
        name: "web",
        requests: 600_000,
        objects: 60_000,
        skew: 0.9,
        wonders: 15,
        churn: 20,
        scans: 0,
        scan: 0,
        sizes: &[(60, 500, 8_000), (35, 8_000, 60_000), (5, 60_000, 400_000)],
    },
    Shape {
        name: "web with scans",
        requests: 600_000,
        objects: 60_000,
        skew: 0.9,
        wonders: 15,
        churn: 20,
        scans: 6,
        scan: 15_000,
        sizes: &[(60, 500, 8_000), (35, 8_000, 60_000), (5, 60_000, 400_000)],
    },
    Shape {
        name: "thumbnails",
        requests: 800_000,
        objects: 200_000,
        skew: 0.8,
        wonders: 30,
        churn: 10,
        scans: 0,
        scan: 0,
        sizes: &[(100, 2_000, 20_000)],
    },
    Shape {
        name: "news (fast churn)",
        requests: 600_000,
        objects: 40_000,
        skew: 1.0,
        wonders: 10,
        churn: 300,
        scans: 0,
        scan: 0,
        sizes: &[(70, 1_000, 30_000), (30, 30_000, 200_000)],
    },
    Shape {
        name: "video segments",
        requests: 120_000,
        objects: 12_000,
        skew: 0.9,
        wonders: 25,
        churn: 50,
        scans: 10,
        scan: 600,
        sizes: &[(100, 100_000, 500_000)],
    },
];

/// All traces for a seed.
pub(crate) fn all(seed: u64) -> impl Iterator<Item = Trace> {
    SHAPES.iter().map(move |shape| generate(shape, seed))
}

/// splitmix64.
struct Random(u64);

impl Random {
    fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        super::policies::mix(self.0)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.draw() % bound.max(1)
    }

    /// A number from 0 to below 1.
    fn part(&mut self) -> f64 {
        (self.draw() >> 11) as f64 / (1u64 << 53) as f64
    }
}

fn generate(shape: &Shape, seed: u64) -> Trace {
    let mut random = Random(seed);
    let mut sum = 0.0;
    let weights = (1..=shape.objects).map(|rank| {
        sum += 1.0 / (rank as f64).powf(shape.skew);
        sum
    });
    let up_to: Vec<f64> = weights.collect();
    let mut by_rank: Vec<u64> = (0..shape.objects as u64).collect();
    let mut next_object = shape.objects as u64;
    let mut fresh = || {
        next_object += 1;
        next_object
    };
    let (mut churned, churns) = (0, shape.objects as u64 * shape.churn / 100);
    let mut scanned = 0;
    // Scans visit the same cold objects repeatedly, as crawlers do.
    let cold: Vec<u64> = (0..shape.scan).map(|number| 1 << 40 | number).collect();
    let mut objects = Vec::with_capacity(shape.requests);
    let mut own = 0;
    while own < shape.requests {
        own += 1;
        while churned * (shape.requests as u64) < churns * own as u64 {
            // A new object gets a random rank, popular or not.
            let rank = random.below(shape.objects as u64) as usize;
            by_rank[rank] = fresh();
            churned += 1;
        }
        if random.below(100) < shape.wonders {
            objects.push(fresh());
            continue;
        }
        let at = random.part() * sum;
        let rank = up_to.partition_point(|upto| *upto < at).min(shape.objects - 1);
        objects.push(by_rank[rank]);
        if scanned * shape.requests < shape.scans * own {
            scanned += 1;
            objects.extend_from_slice(&cold);
        }
    }
    let mut sizes = HashMap::new();
    let requests: Vec<Request> = objects
        .into_iter()
        .map(|object| {
            let bytes = *sizes.entry(object).or_insert_with(|| size(shape, object));
            Request { object, bytes }
        })
        .collect();
    Trace { name: shape.name, requests, bytes: sizes.values().sum() }
}

/// The size of an object, the same at each request.
fn size(shape: &Shape, object: u64) -> u64 {
    let mut random = Random(object ^ 0x5ce9);
    let mut at = random.below(100);
    for (part, least, most) in shape.sizes {
        if at < *part {
            // Log-uniform: as many between 1 and 2 kB as between 10 and 20.
            let bytes = *least as f64 * (*most as f64 / *least as f64).powf(random.part());
            return (bytes as u64).min(BYTES_MAX as u64);
        }
        at -= part;
    }
    shape.sizes[0].1
}
