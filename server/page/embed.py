"""Writes the page's files as a C table: embed.py OUT FILE... (the names are the paths under /page/)."""
import hashlib
import os
import sys

TYPES = {".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8",
         ".svg": "image/svg+xml"}


def main(out, paths):
    with open(out, "w") as f:
        f.write('#include "server/page.h"\n\n')
        rows = []
        for i, path in enumerate(paths):
            with open(path, "rb") as source:
                data = source.read()
            name = os.path.basename(path)
            f.write("static const unsigned char file_%d[] = {\n" % i)
            for at in range(0, len(data), 32):
                f.write("    %s,\n" % ",".join(map(str, data[at:at + 32])))
            f.write("};\n\n")
            rows.append('    {"%s", "%s", "\\"%s\\"", file_%d, sizeof(file_%d)},\n' % (
                name, TYPES[os.path.splitext(name)[1]], hashlib.sha256(data).hexdigest()[:16], i, i))
        f.write("const em_page_file em_page_files[] = {\n%s};\n" % "".join(rows))
        f.write("const size_t em_page_n_files = sizeof(em_page_files) / sizeof(em_page_files[0]);\n")


main(sys.argv[1], sys.argv[2:])
