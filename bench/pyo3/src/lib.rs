//! What native.c's calls() does, as a Rust server does it today: tokio tasks
//! that await Python coroutines through pyo3-async-runtimes.

use pyo3::prelude::*;
use pyo3_async_runtimes::{into_future_with_locals, TaskLocals};
use std::sync::{Arc, Mutex};
use std::time::Instant;

async fn call(handler: &Py<PyAny>, locals: &TaskLocals) -> PyResult<()> {
    let future = Python::attach(|py| {
        into_future_with_locals(locals, handler.bind(py).call0()?)
    })?;
    future.await?;
    Ok(())
}

#[pyclass]
struct Job {
    seconds: Arc<Mutex<Option<f64>>>,
}

#[pymethods]
impl Job {
    /// None: a call failed.
    fn seconds(&self) -> Option<f64> {
        *self.seconds.lock().unwrap()
    }
}

/// calls(loop, count, window, handler, finish) -> Job; count is a multiple of
/// window.
#[pyfunction]
fn calls(
    event_loop: Bound<'_, PyAny>,
    count: usize,
    window: usize,
    handler: Py<PyAny>,
    finish: Py<PyAny>,
) -> PyResult<Job> {
    let seconds = Arc::new(Mutex::new(None));
    let slot = seconds.clone();
    let locals = TaskLocals::new(event_loop);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .build()
            .unwrap();
        let start = Instant::now();
        let mut failed = 0;
        for _ in 0..count / window {
            let batch: Vec<_> =
                (0..window).map(|_| call(&handler, &locals)).collect();
            let ends = runtime.block_on(futures::future::join_all(batch));
            failed += ends.iter().filter(|end| end.is_err()).count();
        }
        if failed == 0 {
            *slot.lock().unwrap() = Some(start.elapsed().as_secs_f64());
        }
        Python::attach(|py| {
            let _ = locals
                .event_loop(py)
                .call_method1("call_soon_threadsafe", (finish,));
        });
    });
    Ok(Job { seconds })
}

#[pymodule(gil_used = false)]
fn pyo3_calls(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(calls, module)?)
}
