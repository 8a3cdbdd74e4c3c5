//! README.md and ARCHITECTURE.md against the code: their configurations load, and what they name is
//! there. In ARCHITECTURE.md a function in the journey belongs to the file named last before it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use restante::config::Config;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(root().join(path)).with_context(|| path.to_owned())
}

/// The text from a heading to the next one of the same depth.
fn section<'a>(text: &'a str, heading: &str) -> Result<&'a str> {
    let (_, rest) = text
        .split_once(&format!("\n{heading}\n"))
        .with_context(|| format!("no section \"{heading}\""))?;
    let hashes = heading.split(' ').next().unwrap_or_default();
    Ok(rest
        .split(&format!("\n{hashes} "))
        .next()
        .unwrap_or_default())
}

/// The contents of fenced blocks of one language.
fn blocks<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    let opening = format!("\n```{language}\n");
    text.split(&opening)
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .collect()
}

/// What stands between backticks, line by line, outside fenced blocks.
fn quoted(text: &str) -> Vec<&str> {
    let outside = text.split("```").step_by(2);
    outside
        .flat_map(str::lines)
        .flat_map(|line| line.split('`').skip(1).step_by(2))
        .collect()
}

/// First cells of a table's rows.
fn first_cells(section: &str) -> Vec<&str> {
    let rows = section.lines().filter(|line| line.starts_with("| "));
    rows.skip(1)
        .filter_map(|row| row.split('|').nth(1))
        .map(str::trim)
        .collect()
}

/// Every key of the configuration, as in `sip.listen`, and every section.
fn keys() -> (BTreeSet<String>, BTreeSet<String>) {
    let mut keys = BTreeSet::from(["account".to_owned()]);
    let mut sections = BTreeSet::new();
    let mut section = String::new();
    for line in Config::default().document().lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']').to_owned();
            sections.insert(section.clone());
        } else if let Some((key, _)) = line.split_once(" = ").filter(|_| !line.starts_with('#')) {
            let dot = if section.is_empty() { "" } else { "." };
            keys.insert(format!("{section}{dot}{key}"));
        }
    }
    (keys, sections)
}

#[test]
fn the_configurations_in_the_readme_load() -> Result<()> {
    let readme = read("README.md")?;
    let folder = tempfile::tempdir()?;
    let found = blocks(&readme, "toml");
    ensure!(found.len() >= 2, "the README shows configurations");
    for (number, text) in found.into_iter().enumerate() {
        let path = folder.path().join(format!("{number}.toml"));
        fs::write(&path, text)?;
        Config::load(Some(&path), std::iter::empty()).with_context(|| text.to_owned())?;
    }
    Ok(())
}

#[test]
fn the_readme_names_every_section_and_only_keys_that_exist() -> Result<()> {
    let readme = read("README.md")?;
    let table = section(&readme, "## Configure")?;
    let (keys, sections) = keys();
    let named: BTreeSet<String> = first_cells(table)
        .into_iter()
        .map(|cell| cell.trim_matches(|c| "`[]".contains(c)).to_owned())
        .filter(|name| !["top", "account", "client", "peer", "---"].contains(&name.as_str()))
        .collect();
    assert_eq!(named, sections);
    for row in table.lines().filter(|line| line.starts_with("| ")) {
        let Some((head, rest)) = row.trim_start_matches("| ").split_once('|') else {
            continue;
        };
        let section = head.trim().trim_matches(|c| "`[]".contains(c));
        for key in quoted(rest) {
            let dotted = match section {
                "top" => key.to_owned(),
                section => format!("{section}.{key}"),
            };
            ensure!(
                keys.contains(&dotted) || key == "RUST_LOG",
                "README.md: no key {dotted}"
            );
        }
    }
    Ok(())
}

/// How many tests `document` names; each of them exists.
fn tests_named_in(document: &str) -> Result<usize> {
    let mut seen = 0;
    for name in quoted(&read(document)?) {
        let Some((place, function)) = name.rsplit_once("::") else {
            continue;
        };
        let file = match place.strip_suffix(".rs") {
            Some(_) => place.to_owned(),
            None => format!("tests/scenarios/{place}.rs"),
        };
        let is_there = read(&file)?.contains(&format!("fn {function}("));
        ensure!(is_there, "{document}: no {function} in {file}");
        seen += 1;
    }
    Ok(seen)
}

#[test]
fn every_test_in_the_index_exists() -> Result<()> {
    let seen = tests_named_in("tests/README.md")?;
    ensure!(seen > 200, "the index names tests");
    Ok(())
}

#[test]
fn every_promise_of_reliability_has_a_test_that_exists() -> Result<()> {
    let text = read("RELIABILITY.md")?;
    for line in text.lines().filter(|line| line.starts_with("| ")) {
        let is_head = line == "| fault | promise | shown by |";
        ensure!(is_head || line.contains("::"), "no test in: {line}");
    }
    ensure!(tests_named_in("RELIABILITY.md")? > 0, "promises are shown");
    Ok(())
}

#[test]
fn the_variables_in_the_readme_are_keys() -> Result<()> {
    let (keys, _) = keys();
    let readme = read("README.md")?;
    for rest in readme.split("RESTANTE_").skip(1) {
        let end = rest.find(|c: char| !c.is_ascii_uppercase() && c != '_');
        let name = &rest[..end.unwrap_or(rest.len())];
        let key = name.to_ascii_lowercase().replace("__", ".");
        ensure!(
            name.is_empty() || keys.contains(&key),
            "README.md: RESTANTE_{name} is no key"
        );
    }
    Ok(())
}

#[test]
fn links_lead_somewhere() -> Result<()> {
    for document in ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"] {
        let text = read(document)?;
        for link in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            let there = link.starts_with("https://") || root().join(link).exists();
            ensure!(there, "{document}: {link} is not there");
        }
    }
    Ok(())
}

#[test]
fn every_path_in_the_architecture_exists() -> Result<()> {
    let text = read("ARCHITECTURE.md")?;
    for path in quoted(&text) {
        let ours = ["src/", "tests/", "deploy/", "sip-scenarios/"];
        if ours.iter().any(|folder| path.starts_with(folder)) {
            ensure!(root().join(path).exists(), "ARCHITECTURE.md: no {path}");
        }
    }
    Ok(())
}

#[test]
fn every_function_on_the_journey_is_in_the_file_named_before_it() -> Result<()> {
    let text = read("ARCHITECTURE.md")?;
    let mut file = String::new();
    let mut source = String::new();
    let mut functions = 0;
    for name in quoted(section(&text, "## The journey")?) {
        if name.starts_with("src/") && name.ends_with(".rs") {
            file = name.to_owned();
            source = read(name)?;
        } else if let Some(function) = name.strip_suffix("()") {
            let declared = ["(", "<"].iter().any(|next| {
                let declaration = format!("fn {function}{next}");
                source.contains(&declaration)
            });
            ensure!(declared, "ARCHITECTURE.md: {file} has no {name}");
            functions += 1;
        }
    }
    ensure!(functions > 50, "the journey names its functions");
    Ok(())
}

/// The paths of the tree below `src/`: two spaces a level, a folder ends with `/`.
fn drawn_tree(text: &str) -> Result<BTreeSet<PathBuf>> {
    let tree = blocks(section(text, "## The tree")?, "");
    let tree = tree.first().context("the tree is a fenced block")?;
    let mut folders: Vec<&str> = Vec::new();
    let mut files = BTreeSet::new();
    for line in tree.lines() {
        let depth = (line.len() - line.trim_start().len()) / 2;
        let name = line.split_whitespace().next().unwrap_or_default();
        folders.truncate(depth);
        match name.strip_suffix('/') {
            Some(folder) => folders.push(folder),
            None => {
                let folder: PathBuf = folders.iter().collect();
                files.insert(folder.join(name));
            }
        }
    }
    Ok(files)
}

fn sources(folder: &Path, files: &mut BTreeSet<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(root().join(folder))? {
        let entry = entry?;
        let path = folder.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            sources(&path, files)?;
        } else if path.file_name().is_some_and(|name| name != "mod.rs") {
            files.insert(path);
        }
    }
    Ok(())
}

#[test]
fn the_tree_has_a_line_for_every_file_and_no_other() -> Result<()> {
    let drawn = drawn_tree(&read("ARCHITECTURE.md")?)?;
    let mut there = BTreeSet::new();
    sources(Path::new("src"), &mut there)?;
    let missing: Vec<_> = there.difference(&drawn).collect();
    let stale: Vec<_> = drawn.difference(&there).collect();
    ensure!(missing.is_empty(), "the tree has no line for {missing:?}");
    ensure!(stale.is_empty(), "the tree has a line for {stale:?}");
    Ok(())
}

#[test]
fn the_floors_are_those_that_the_test_holds() -> Result<()> {
    let text = read("ARCHITECTURE.md")?;
    let floors = section(&text, "## Floors")?;
    let code = read("tests/floors.rs")?;
    let rows = code.lines().filter_map(|line| {
        let (floor, modules) = line.trim().strip_prefix('(')?.split_once(", &[")?;
        Some((floor.parse::<u8>().ok()?, modules))
    });
    for (floor, modules) in rows {
        let start = format!("| {floor} |");
        let row = floors.lines().find(|line| line.starts_with(&start));
        let row = row.with_context(|| format!("floor {floor} has no row"))?;
        for module in modules.split('"').skip(1).step_by(2) {
            let exists = ["src", "src/bin"].iter().any(|folder| {
                let path = root().join(folder).join(module);
                path.is_dir() || path.with_extension("rs").is_file()
            });
            let written = row.contains(&format!("`{module}`"));
            ensure!(
                exists == written,
                "floor {floor} of ARCHITECTURE.md: {module}"
            );
        }
    }
    Ok(())
}

#[test]
fn every_decision_is_there_with_its_price() -> Result<()> {
    let text = read("ARCHITECTURE.md")?;
    let mut rest = section(&text, "## Decisions")?;
    for number in 1..=18 {
        let start = format!("\n{number}. **");
        let Some((_, here)) = rest.split_once(&start) else {
            bail!("decision {number} is not recorded");
        };
        let own = here.split("\n").take_while(|line| !line.contains(". **"));
        let own: Vec<_> = own.collect();
        ensure!(
            own.join("\n").contains("*Price:*"),
            "decision {number} names no price"
        );
        rest = here;
    }
    Ok(())
}

#[test]
fn every_dependency_earns_its_place() -> Result<()> {
    let manifest: toml::Table = read("Cargo.toml")?.parse()?;
    let declared: BTreeSet<&str> = ["dependencies", "dev-dependencies"]
        .iter()
        .filter_map(|table| manifest.get(*table)?.as_table())
        .flat_map(|table| table.keys().map(String::as_str))
        .collect();
    let text = read("ARCHITECTURE.md")?;
    let table = section(&text, "## Dependencies")?;
    let rows = first_cells(table);
    let named: BTreeSet<&str> = rows.iter().flat_map(|cell| quoted(cell)).collect();
    assert_eq!(named, declared);
    Ok(())
}
