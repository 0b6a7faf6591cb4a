//! Numbers that a seed replays, and values at which a careless check breaks.

const EDGES: [u32; 14] =
    [0, 1, 2, 127, 255, 256, 65_535, 65_536, 65_537, 1 << 30, i32::MAX as u32, 1 << 31, u32::MAX - 1, u32::MAX]; // fmt: skip

/// Marsaglia's xorshift64*.
pub struct Chance(u64);

impl Chance {
    /// One stream of the seed that the environment names, else of today's; says it.
    pub fn new(variable: &str, stream: u64) -> Self {
        let seed = seed(variable);
        println!("{variable}={seed}");
        Self((seed ^ (stream << 56)).max(1))
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 16) as usize % limit
    }

    pub fn value(&mut self, near: u32) -> u32 {
        match self.below(4) {
            0 => EDGES[self.below(EDGES.len())],
            1 => near.wrapping_add(self.below(5) as u32).wrapping_sub(2),
            2 => near ^ (1 << self.below(32)),
            _ => self.next() as u32,
        }
    }
}

/// The seed that the environment names.
pub fn seed(variable: &str) -> u64 {
    std::env::var(variable).map_or(20_261_122, |said| said.parse().expect("a number"))
}
