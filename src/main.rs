//! The program: everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    let code = wsecho::cli::run();
    if code != ExitCode::SUCCESS {
        wsecho::ops::logging::linger();
    }
    code
}
