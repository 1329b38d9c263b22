"""The zoo: many small architectures through every stage of compression and conversion, beside the peer.

`python -m graphpress.tools.zoo run` runs what the results lack, `table` writes `docs/zoo.md` from them. See
`docs/zoo.md` for the columns, and `tools/zoo/environment.sh` for the environments of both sides.
"""
