"""The look of a report's page, as CSS: one column of cards, light or dark as the browser wants it."""

# By these a file is known as a report of ours, or one of its pictures, which may be written over.
MAKER = "ffpipe report"
MARK = f'<meta name="generator" content="{MAKER}">'
PNG_MARK = f"Software\0{MAKER}"
CSS = """
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,"Segoe UI",Roboto,
"DejaVu Sans",sans-serif}
main{max-width:1120px;margin:0 auto;padding:24px 20px 60px}
header h1{font-size:26px;margin:0 0 2px;overflow-wrap:anywhere}
header p{margin:0;color:var(--faint);overflow-wrap:anywhere}
.status{display:inline-block;margin-left:10px;padding:1px 10px;border-radius:999px;font-size:13px;font-weight:600;
vertical-align:4px;background:var(--line);color:var(--ink)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;margin:20px 0 8px}
.tile{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:12px 14px}
.tile b{display:block;font-size:23px;font-weight:650;line-height:1.2;font-variant-numeric:tabular-nums}
.tile span{color:var(--faint);font-size:13px}
nav{margin:14px 0 0;font-size:14px;display:flex;flex-wrap:wrap;gap:4px 16px}
nav a{color:var(--link);text-decoration:none}nav a:hover{text-decoration:underline}
section{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:16px 20px 20px;margin-top:20px}
h2{font-size:18px;margin:0 0 6px}
section>p{margin:0 0 8px;color:var(--faint);max-width:76ch}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(430px,1fr));gap:8px 24px}
figure{margin:10px 0 4px;overflow-x:auto}
figure svg{display:block;width:100%;height:auto;margin:0 auto}
figure svg *{stroke-linejoin:round;stroke-linecap:butt}
figure svg text{font-family:"DejaVu Sans",Verdana,system-ui,sans-serif}
figure.wide svg{min-width:640px}
figure img.png{display:block;width:100%;border-radius:6px}
figcaption{color:var(--faint);font-size:13px;margin-top:4px}
.table{overflow-x:auto;margin:10px 0}
table{border-collapse:collapse;font-size:13.5px;font-variant-numeric:tabular-nums}
caption{text-align:left;color:var(--faint);font-size:13px;padding-bottom:4px}
th,td{padding:3px 14px 3px 0;text-align:left;border-bottom:1px solid var(--line);vertical-align:top;
max-width:72ch;overflow-wrap:break-word}
th{font-weight:600;color:var(--faint)}
td.n,th.n{text-align:right;white-space:nowrap}
details{margin:8px 0}summary{cursor:pointer;color:var(--link);font-size:14px}
pre{background:var(--page);border:1px solid var(--line);border-radius:8px;padding:12px;font-size:13px;overflow-x:auto;
white-space:pre-wrap;overflow-wrap:anywhere;margin:8px 0}
mark{background:var(--mark);color:inherit;border-radius:2px}
.missing{border-left:4px solid var(--warn);padding:4px 12px;margin:10px 0;background:var(--page);overflow-wrap:anywhere}
"""
LIGHT_PAGE = (
    "--page:#f4f6f8;--card:#fff;--ink:#23272d;--faint:#5c646e;--line:#dde2e8;--link:#005f96;--mark:#ffd9bd;"
    "--warn:#d55e00;"
)
DARK_PAGE = (
    "--page:#121519;--card:#1b1f24;--ink:#e4e7eb;--faint:#9aa3ad;--line:#363c44;--link:#6db9ea;--mark:#7a3b12;"
    "--warn:#ff8547;"
)
