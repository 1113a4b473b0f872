//! Jobs on lanes: threads that run whole jobs, side by side.
//!
//! Where a job is made of many short steps, all threads working on each step wait for one another more than they
//! compute. A thread with a lane of its own does the steps of its job one after the other; only a thread that has no job, at
//! the end of a run or where there are more threads than lanes, takes parts of the others' steps.

use std::{
    ops::ControlFlow,
    sync::{
        Barrier,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};

use crate::error::{Error, Result};

/// Runs jobs on `lanes` lanes of a pool with as many threads as the current rayon pool; each takes the next job when it has done
/// one. `work` gets its lane's own state, as `S::default()` at first.
///
/// `deliver` gets each job's result on the calling thread, in the order in which they are done. `Break` ends the run:
/// jobs that were begun are finished and delivered, no others begin.
///
/// # Errors
/// The first job's error, in the order of the jobs that were begun; the others are delivered.
pub(crate) fn run<J: Sync, S: Default, T: Send>(
    jobs: &[J],
    lanes: usize,
    work: impl Fn(&mut S, &J) -> Result<T> + Sync,
    mut deliver: impl FnMut(T) -> ControlFlow<()>,
) -> Result<()> {
    let threads = rayon::current_num_threads();
    let lanes = lanes.min(threads).min(jobs.len()).max(1);
    let next = AtomicUsize::new(0);
    let take = || {
        let i = next.fetch_add(1, Ordering::Relaxed);
        jobs.get(i).map(|job| (i, job))
    };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
    let pool = pool
        .build()
        .map_err(|e| Error::Runtime(format!("threads cannot be started: {e}")))?;
    let all_begin = Barrier::new(lanes);
    let (send, done) = mpsc::channel();
    let mut failed: Option<(usize, Error)> = None;
    thread::scope(|scope| {
        for _ in 0..lanes {
            let (send, pool, take, work) = (send.clone(), &pool, &take, &work);
            let all_begin = &all_begin;
            let lane = move || {
                // Each lane on a thread of its own: none waits inside another's job.
                all_begin.wait();
                let mut state = S::default();
                while let Some((i, job)) = take() {
                    // The receiver stays until all lanes have ended.
                    let _ = send.send((i, work(&mut state, job)));
                }
            };
            scope.spawn(move || pool.install(lane));
        }
        drop(send);
        for (i, result) in done {
            let ends = match result {
                Ok(result) => deliver(result).is_break(),
                Err(error) => {
                    if failed.as_ref().is_none_or(|(first, _)| i < *first) {
                        failed = Some((i, error));
                    }
                    true
                }
            };
            if ends {
                next.store(jobs.len(), Ordering::Relaxed);
            }
        }
    });
    failed.map_or(Ok(()), |(_, error)| Err(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on_threads<T: Send>(n: usize, f: impl FnOnce() -> T + Send) -> T {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(n).build();
        pool.unwrap().install(f)
    }

    #[test]
    fn every_job_is_done_once_and_lanes_keep_their_state() {
        for (threads, lanes) in [(1, 1), (1, 4), (3, 1), (3, 2), (3, 3), (3, 64)] {
            let jobs: Vec<usize> = (0..50).collect();
            let work = |seen: &mut usize, &job: &usize| {
                *seen += 1;
                Ok((job, *seen, rayon::current_num_threads()))
            };
            let mut found = Vec::new();
            on_threads(threads, || {
                run(&jobs, lanes, work, |result| {
                    found.push(result);
                    ControlFlow::Continue(())
                })
            })
            .unwrap();
            found.sort_unstable();
            assert!(found.iter().map(|f| f.0).eq(0..50), "{threads}, {lanes}");
            assert!(found.iter().all(|f| f.1 <= f.0 + 1));
            assert!(found.iter().all(|f| f.2 == threads));
        }
        run(&[], 2, |(), (): &()| Ok(()), |()| unreachable!()).unwrap();
    }

    #[test]
    fn a_break_ends_the_run_and_loses_nothing_that_was_begun() {
        on_threads(3, || {
            let jobs: Vec<usize> = (0..100_000).collect();
            let begun = AtomicUsize::new(0);
            let mut delivered = 0;
            let work = |(): &mut (), _: &usize| {
                begun.fetch_add(1, Ordering::Relaxed);
                Ok(())
            };
            let deliver = |()| {
                delivered += 1;
                ControlFlow::Break(())
            };
            run(&jobs, 3, work, deliver).unwrap();
            assert_eq!(delivered, begun.into_inner());
        });
    }

    #[test]
    fn the_first_error_counts() {
        on_threads(2, || {
            let work = |(): &mut (), &job: &usize| match job {
                0 => Ok(()),
                _ => Err(Error::Runtime(format!("job {job}"))),
            };
            let error = run(&[0, 1, 2, 3], 2, work, |()| ControlFlow::Continue(()));
            assert!(error.unwrap_err().to_string().contains("job 1"));
        });
    }
}
