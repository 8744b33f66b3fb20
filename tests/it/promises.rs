//! Holds `docs/behaviour.md` to its word: every promise names tests that exist. `docs/security.md` names files, too.

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
};

/// What stands in the test cell of a promise that has no test yet.
const UNPROVEN: &str = "–";

const INDENT: &str = "    ";

/// One line of a table.
#[derive(Debug, PartialEq)]
struct Promise {
    id: String,
    tests: Vec<String>,
}

#[test]
fn every_promise_names_tests_that_exist() {
    let missing: Vec<_> = promises()
        .iter()
        .flat_map(|promise| {
            promise.tests.iter().filter_map(|test| {
                let fault = find_test(root(), test).err()?;
                Some(format!("{}: `{test}`: {fault}", promise.id))
            })
        })
        .collect();
    assert!(missing.is_empty(), "docs/behaviour.md names tests that do not exist:\n{}", missing.join("\n"));
}

#[test]
fn no_promise_stands_twice() {
    let mut seen = HashSet::new();
    let twice: Vec<_> =
        promises().into_iter().map(|promise| promise.id).filter(|id| !seen.insert(id.clone())).collect();
    assert!(twice.is_empty(), "docs/behaviour.md has these twice: {twice:?}");
}

#[test]
fn every_requirement_is_a_promise_in_its_place() {
    let found: Vec<_> =
        promises().into_iter().map(|promise| promise.id).filter(|id| id.starts_with("R-")).collect();
    let all: Vec<_> = (1..=50).map(|number| format!("R-{number:02}")).collect();
    assert_eq!(found, all);
}

#[test]
fn every_promise_has_a_test() {
    let unproven: Vec<_> =
        promises().into_iter().filter(|promise| promise.tests.is_empty()).map(|promise| promise.id).collect();
    assert!(unproven.is_empty(), "promises without a test: {unproven:?}");
}

#[test]
fn the_security_notes_name_tests_and_files_that_exist() {
    let text = read(&root().join("docs/security.md")).expect("the notes are part of the repository");
    let missing: Vec<_> = text
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|named| match named.split_once("::") {
            Some(("lib" | "it" | "e2e" | "property", _)) => find_test(root(), named).is_err(),
            _ => named.starts_with("src/") && !root().join(named).is_file(),
        })
        .collect();
    assert!(missing.is_empty(), "docs/security.md names what does not exist:\n{}", missing.join("\n"));
}

#[test]
fn a_table_line_is_read_cell_by_cell() {
    let text = "| ID | promise | test |\n|---|---|---|\n| A01 | one | `it::a::b`, `e2e::c::d` |\n| I-2 | two | – |\n";
    let names = ["it::a::b", "e2e::c::d"].map(str::to_owned).to_vec();
    assert_eq!(
        parse(text),
        Ok(vec![Promise { id: "A01".into(), tests: names }, Promise { id: "I-2".into(), tests: vec![] }])
    );
}

#[test]
fn a_line_that_is_no_promise_is_reported() {
    for line in ["| A01 | no test cell |", "| A1 | one | – |", "| A01 | one | it::a::b |", "| A01 | one | |"]
    {
        assert!(parse(line).is_err(), "{line}");
    }
}

#[test]
fn a_test_is_found_in_every_shape_it_comes_in() {
    for text in [
        "#[test]\nfn name() {\n}\n",
        "#[tokio::test(start_paused = true)]\nasync fn name() {\n}\n",
        "#[tokio::test(\n    flavor = \"multi_thread\"\n)]\n#[should_panic]\nasync fn name() {\n}\n",
        "/// Why.\n#[test]\n// because\nfn name() -> Result<(), BoxError> {\n}\n",
        "proptest! {\n    #[test]\n    fn name(a in any::<u8>()) {\n    }\n}\n",
    ] {
        assert!(is_test(text, "name"), "{text}");
    }
    for text in [
        "#[test]\nfn other() {}\nfn name() {}\n",
        "#[test]\nfn name_and_more() {}\n",
        "// #[test]\nfn name() {}\n",
        "mod tests {\n    #[test]\n    fn name() {}\n}\n",
    ] {
        assert!(!is_test(text, "name"), "{text}");
    }
}

#[test]
fn a_test_is_found_only_where_it_is_compiled_and_run() {
    let here = "it::promises::a_test_is_found_only_where_it_is_compiled_and_run";
    assert_eq!(find_test(root(), here), Ok(()));
    assert_eq!(find_test(root(), "lib::secret::tests::debug_shows_nothing_of_the_text"), Ok(()));
    for absent in [
        "it::promises::no_such_test",
        // A function, but no test.
        "it::promises::find_test",
        "it::no_such_module::a_test_is_found_only_where_it_is_compiled_and_run",
        "lib::secret::debug_shows_nothing_of_the_text",
        "elsewhere::promises::no_promise_stands_twice",
    ] {
        assert!(find_test(root(), absent).is_err(), "{absent}");
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn promises() -> Vec<Promise> {
    let text =
        read(&root().join("docs/behaviour.md")).expect("the list of promises is part of the repository");
    let promises = parse(&text).expect("every line of a table is a promise");
    assert!(!promises.is_empty(), "docs/behaviour.md promises nothing");
    promises
}

/// The promises in the tables of a Markdown text, heads and rules left out.
fn parse(text: &str) -> Result<Vec<Promise>, String> {
    text.lines()
        .filter(|line| line.starts_with('|') && !line.starts_with("| ID |") && !line.starts_with("|---"))
        .map(|line| parse_line(line).ok_or_else(|| format!("not `| ID | promise | test |`: {line}")))
        .collect()
}

fn parse_line(line: &str) -> Option<Promise> {
    let cells: Vec<_> = line.strip_prefix('|')?.strip_suffix('|')?.split('|').map(str::trim).collect();
    let [id, promise, tests] = cells[..] else { return None };
    if !is_id(id) || promise.is_empty() {
        return None;
    }
    let tests = match tests {
        UNPROVEN => Vec::new(),
        names => names
            .split(',')
            .map(|name| Some(name.trim().strip_prefix('`')?.strip_suffix('`')?.to_owned()))
            .collect::<Option<_>>()?,
    };
    Some(Promise { id: id.to_owned(), tests })
}

/// `R-01`, `I-1`, `A01`.
fn is_id(id: &str) -> bool {
    let number = |text: &str, length: std::ops::RangeInclusive<usize>| {
        length.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
    };
    if let Some(rest) = id.strip_prefix("R-") {
        number(rest, 2..=2)
    } else if let Some(rest) = id.strip_prefix("I-") {
        number(rest, 1..=2)
    } else {
        id.starts_with(|first: char| first.is_ascii_uppercase()) && number(&id[1..], 2..=2)
    }
}

/// Follows the module path of `name` from its crate root through `mod` declarations and looks for the test there.
fn find_test(root: &Path, name: &str) -> Result<(), String> {
    let (path, function) = name.rsplit_once("::").ok_or("names no module")?;
    let mut path = path.split("::");
    let (file, mut folder) = match path.next() {
        Some("lib") => ("src/lib.rs", root.join("src")),
        Some("it") => ("tests/it/main.rs", root.join("tests/it")),
        Some("e2e") => ("tests/e2e/main.rs", root.join("tests/e2e")),
        Some("property") => ("tests/property/main.rs", root.join("tests/property")),
        _ => return Err("starts with none of `lib`, `it`, `e2e`, `property`".to_owned()),
    };
    let mut text = read(&root.join(file))?;
    for module in path {
        if let Some(body) = inline_module(&text, module) {
            text = body;
        } else if declares(&text, module) {
            let flat = folder.join(format!("{module}.rs"));
            text = read(&if flat.exists() { flat } else { folder.join(module).join("mod.rs") })?;
        } else {
            return Err(format!("no module `{module}` is declared there"));
        }
        folder.push(module);
    }
    if is_test(&text, function) { Ok(()) } else { Err(format!("no test function `{function}` is there")) }
}

fn read(path: &PathBuf) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// Whether the text has `mod name;`, at whatever visibility.
fn declares(text: &str, name: &str) -> bool {
    let declaration = format!("mod {name};");
    text.lines().any(|line| {
        line == declaration || line.starts_with("pub") && line.ends_with(&format!(" {declaration}"))
    })
}

/// What stands between the lines `mod name {` and `}` of the same depth, moved out by one level. The sources are
/// formatted by rustfmt, so that the indentation tells the depth.
fn inline_module(text: &str, name: &str) -> Option<String> {
    let head = format!("mod {name} {{");
    let mut lines = text.lines().skip_while(|line| *line != head);
    lines.next()?;
    let body = lines.take_while(|line| *line != "}");
    Some(body.map(|line| line.strip_prefix(INDENT).unwrap_or(line)).collect::<Vec<_>>().join("\n"))
}

/// Whether the text has `fn name` with a test attribute at its outer level or in a `proptest!` there.
fn is_test(text: &str, name: &str) -> bool {
    let lines = outer_lines(text);
    lines.iter().enumerate().any(|(at, line)| {
        let is_named = line
            .strip_prefix("async ")
            .unwrap_or(line)
            .strip_prefix("fn ")
            .and_then(|rest| rest.strip_prefix(name))
            .is_some_and(|rest| rest.starts_with(['(', '<']));
        // The attributes reach back to whatever ends the item before.
        let mut attributes =
            lines[..at].iter().rev().take_while(|line| !line.is_empty() && !line.ends_with(['}', ';', '{']));
        is_named && attributes.any(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test"))
    })
}

/// The lines of the text, those in a `proptest!` moved out by one level.
fn outer_lines(text: &str) -> Vec<&str> {
    let mut in_macro = false;
    text.lines()
        .map(|line| {
            in_macro = match line {
                "proptest! {" | "proptest::proptest! {" => true,
                "}" => false,
                _ => in_macro,
            };
            if in_macro { line.strip_prefix(INDENT).unwrap_or(line) } else { line }
        })
        .collect()
}
