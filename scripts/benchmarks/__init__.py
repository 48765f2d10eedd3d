"""The rows of `scripts/bench` and what they are measured with.

`row` has the registry and what a row yields, `context` what a row works in, `measure` clocks, CPU
time, memory and caches, `line` a relay with latency and a rate, `origin` nginx, `synthetic` a
service of generated artifacts, `peers` curl and rclone, `report` the table and results.json,
`runner` what measures one row and
bounds its time, `picture` the picture. The rows themselves are in the modules whose names begin
with `rows_`.
"""
