//! The word that was probably meant.

/// The word that is nearest to `word`, by the letters that have to be changed; none where none is near.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = word.to_lowercase();
    let longest = (word.chars().count() / 3).clamp(1, 3);
    known
        .into_iter()
        .filter(|known| *known != word)
        .map(|known| (distance(&lower, &known.to_lowercase()), known))
        .filter(|(distance, _)| *distance <= longest)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

/// ` (did you mean …?)`, or nothing.
pub(super) fn hint<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(word, known).map(|known| format!(" (did you mean {known}?)")).unwrap_or_default()
}

/// Letters added, left out, changed, or two swapped.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    // Words of that length are no one's slip of the finger.
    if a.len().max(b.len()) > 64 {
        return usize::MAX;
    }
    let mut rows = vec![vec![0usize; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    for (j, cell) in rows[0].iter_mut().enumerate() {
        *cell = j;
    }
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let same = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (rows[i - 1][j] + 1).min(rows[i][j - 1] + 1).min(rows[i - 1][j - 1] + same);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn slips_of_the_finger() {
        let known = ["FROM", "RUN", "COPY", "ENTRYPOINT"];
        assert_eq!(nearest("FORM", known), Some("FROM"));
        assert_eq!(nearest("RUNN", known), Some("RUN"));
        assert_eq!(nearest("entrypiont", known), Some("ENTRYPOINT"));
        assert_eq!(nearest("COYP", known), Some("COPY"));
        assert_eq!(nearest("ZZZZ", known), None);
        assert_eq!(nearest("FROM", ["FROM"]), None);
    }
}
