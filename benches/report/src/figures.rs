//! What the measuring programs have printed.

use std::{fs, io, path::Path};

/// The figures of all files of a folder.
pub struct Figures(Vec<Figure>);

pub struct Figure {
    pub group: String,
    pub case: String,
    pub metric: String,
    pub value: String,
}

impl Figures {
    pub fn read(folder: &Path) -> io::Result<Self> {
        let mut files: Vec<_> = fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?;
        files.sort_by_key(|file| file.file_name());
        let mut figures = Vec::new();
        for file in
            files.iter().filter(|file| file.path().extension().is_some_and(|extension| extension == "tsv"))
        {
            figures.extend(fs::read_to_string(file.path())?.lines().filter_map(parse));
        }
        Ok(Figures(figures))
    }

    /// The number behind `group`, `case`, `metric`, if it was measured.
    pub fn number(&self, key: [&str; 3]) -> Option<f64> {
        self.text(key)?.parse().ok()
    }

    pub fn text(&self, [group, case, metric]: [&str; 3]) -> Option<&str> {
        let is_it =
            |figure: &&Figure| figure.group == group && figure.case == case && figure.metric == metric;
        self.0.iter().find(is_it).map(|figure| figure.value.as_str())
    }

    pub fn of_group<'a>(&'a self, group: &'a str) -> impl Iterator<Item = &'a Figure> {
        self.0.iter().filter(move |figure| figure.group == group)
    }

    pub fn all(&self) -> &[Figure] {
        &self.0
    }
}

fn parse(line: &str) -> Option<Figure> {
    let mut fields = line.split('\t').map(str::to_owned);
    Some(Figure {
        group: fields.next()?,
        case: fields.next()?,
        metric: fields.next()?,
        value: fields.next()?,
    })
}
