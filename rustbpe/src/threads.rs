//! The same work on several threads.

use std::thread::{Builder, scope};

/// Run `work` on `workers` threads, of which the caller's is one; it takes its next piece from something shared. A
/// thread that the system refuses is missed, no more: the others do its share. A panic goes on in the caller.
pub(crate) fn on_threads(workers: usize, name: &str, work: impl Fn() + Sync) {
    scope(|scope| {
        let spawn = |_| Builder::new().name(format!("picollm-{name}")).spawn_scoped(scope, &work);
        let threads: Vec<_> = (1..workers).map_while(|at| spawn(at).ok()).collect();
        work();
        for thread in threads {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
}
