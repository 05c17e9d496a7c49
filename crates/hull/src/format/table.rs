//! Columns, aligned as Go's tabwriter aligns them with the settings of Docker's client.

/// No column is narrower than this.
const MINIMUM_WIDTH: usize = 10;
/// Blanks between the widest cell of a column and the next column.
const PADDING: usize = 3;

/// Aligns the cells of `text`, which are separated by tabs, lines by newlines.
///
/// A cell ends with a tab; what follows the last tab of a line is no part of a column and is not padded. A column is a
/// run of neighbouring lines that have such a cell: a line without it begins a new column with a width of its own.
pub(crate) fn align(text: &str) -> String {
    let lines: Vec<Vec<&str>> = text.split('\n').map(|line| line.split('\t').collect()).collect();
    let mut widths: Vec<Vec<usize>> = lines.iter().map(|cells| vec![0; cells.len() - 1]).collect();
    let columns = widths.iter().map(Vec::len).max().unwrap_or(0);
    for column in 0..columns {
        let mut line = 0;
        while line < lines.len() {
            let block = widths[line..].iter().take_while(|w| w.len() > column).count();
            let widest = lines[line..line + block].iter().map(|cells| cells[column].chars().count()).max();
            // Without cells there is nothing to be wide: such a column takes no room, not even the minimum.
            let width = widest.map_or(0, |w| (w + PADDING).max(MINIMUM_WIDTH));
            for w in &mut widths[line..line + block] {
                w[column] = width;
            }
            line += block.max(1);
        }
    }
    let mut out = String::with_capacity(text.len() * 2);
    for (index, cells) in lines.iter().enumerate() {
        if index > 0 {
            out.push('\n');
        }
        for (column, cell) in cells.iter().enumerate() {
            out.push_str(cell);
            if let Some(width) = widths[index].get(column) {
                out.extend(std::iter::repeat_n(' ', width - cell.chars().count()));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        for (text, expected) in [
            ("", ""),
            ("a\n", "a\n"),
            ("a\tb\n", "a         b\n"),
            ("abcdefgh\tb\nc\td\n", "abcdefgh   b\nc          d\n"),
            ("abcdefghijkl\tb\n\tc\n", "abcdefghijkl   b\n               c\n"),
            // Counted in characters, not in bytes.
            ("äöüäöüäöü\tb\nabcdefghi\tc\n", "äöüäöüäöü   b\nabcdefghi   c\n"),
            // A trailing tab makes the last cell a column.
            ("a\tb\t\nc\td\te\n", "a         b         \nc         d         e\n"),
            // A line without the cell ends the column.
            ("abcdefghijkl\tb\nplain\nc\td\n", "abcdefghijkl   b\nplain\nc         d\n"),
        ] {
            assert_eq!(align(text), expected, "{text:?}");
        }
    }
}
