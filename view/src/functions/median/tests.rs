// SPDX-License-Identifier: Apache-2.0
use crate::functions::testing::column;

#[tokio::test]
async fn the_median_of_decimals_keeps_the_half() {
    let most = "9".repeat(38);
    let below = format!("{}8", "9".repeat(37));
    let finest = format!("0.{most}");
    let wide = format!("{}7", "9".repeat(36));
    for (values, data_type, distinct, median, result) in [
        ("1.1 1.2", "DECIMAL(5, 1)", "", "1.15", "(6, 2)"),
        ("-1.1 -1.2 0 -9", "DECIMAL(5, 1)", "", "-1.15", "(6, 2)"),
        ("3 1 2", "DECIMAL(5, 0)", "", "2.0", "(6, 1)"),
        ("3 1 2 3 3 3", "DECIMAL(5, 0)", "", "3.0", "(6, 1)"),
        ("3 1 3 2 3 4", "DECIMAL(5, 0)", "DISTINCT ", "2.5", "(6, 1)"),
        // No room for one more digit: half away from zero.
        (
            &format!("{most} {below}"),
            "DECIMAL(38, 0)",
            "",
            &most,
            "(38, 0)",
        ),
        (
            &format!("-{most} -{below}"),
            "DECIMAL(38, 0)",
            "",
            &format!("-{most}"),
            "(38, 0)",
        ),
        (
            &format!("{finest} {finest}"),
            "DECIMAL(38, 38)",
            "",
            &finest,
            "(38, 38)",
        ),
        (
            &format!("{wide} {wide}"),
            "DECIMAL(37, 0)",
            "",
            &format!("{wide}.0"),
            "(38, 1)",
        ),
        (
            &format!("{most}0 {most}1"),
            "DECIMAL(39, 0)",
            "",
            &format!("{most}0.5"),
            "(40, 1)",
        ),
    ] {
        let rows = values
            .split(' ')
            .map(|value| format!("('{value}', 'k'), (NULL, 'k')"));
        let rows = rows.collect::<Vec<_>>().join(", ");
        let table = format!(
            "(SELECT CAST(column1 AS {data_type}) AS x, column2 AS k FROM (VALUES {rows})) AS t"
        );
        let call = format!("median({distinct}x)");
        for grouped in ["", " GROUP BY k"] {
            let sql = format!("SELECT {call} FROM {table}{grouped}");
            assert_eq!(column(&sql).await, [median], "{sql}");
            let sql = format!("SELECT arrow_typeof({call}) FROM {table}{grouped}");
            let found = &column(&sql).await[0];
            assert!(found.ends_with(result), "{found}, not {result}: {sql}");
        }
    }
}

#[tokio::test]
async fn it_slides_over_windows_and_leaves_other_types_alone() {
    let rows = "(VALUES (1, 1.1, 1), (2, 1.2, 4), (3, NULL, 5), (4, 7.0, 8)) AS t (i, x, n)";
    let sql = format!(
        "SELECT median(CAST(x AS DECIMAL(3, 1))) OVER (ORDER BY i ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM {rows}"
    );
    assert_eq!(column(&sql).await, ["1.10", "1.15", "1.20", "7.00"]);
    for (call, median) in [
        ("median(n)", "4.5"),
        ("median(x)", "1.2"),
        ("median(CAST(NULL AS DECIMAL(3, 1)))", ""),
        ("median(NULL)", ""),
        (
            "percentile_cont(0.5) WITHIN GROUP (ORDER BY CAST(n AS DECIMAL(5, 1)))",
            "4.5",
        ),
    ] {
        let sql = format!("SELECT {call} FROM {rows}");
        assert_eq!(column(&sql).await, [median], "{sql}");
    }
}
