"""Encoders of text."""

from graphpress.tools.zoo.models.hub import encoder

MODELS = (
    encoder("bert", "Bert"),
    encoder("roberta", "Roberta", max_position_embeddings=80),
    encoder("distilbert", "DistilBert", dim=64, hidden_dim=96, n_layers=2, n_heads=4),
    encoder("albert", "Albert", embedding_size=32),
    encoder("electra", "Electra", embedding_size=32),
    encoder("deberta", "Deberta", relative_attention=True, pos_att_type="c2p|p2c"),
    encoder("deberta-v2", "DebertaV2", relative_attention=True, pos_att_type="c2p|p2c"),
    encoder("mpnet", "MPNet", max_position_embeddings=80),
    encoder("modernbert", "ModernBert", local_attention=8, attn_implementation="eager"),
    encoder("convbert", "ConvBert", embedding_size=32, head_ratio=2),
    encoder("squeezebert", "SqueezeBert", embedding_size=64),
    encoder("mobilebert", "MobileBert", embedding_size=32, intra_bottleneck_size=32, true_hidden_size=32),
    encoder("xlm-roberta", "XLMRoberta", max_position_embeddings=80),
    encoder("roformer", "RoFormer", embedding_size=64),
    encoder("ernie", "Ernie"),
    encoder("nystromformer", "Nystromformer", num_landmarks=16, segment_means_seq_len=16),
    encoder("bert for tokens", "Bert", "ForTokenClassification"),
    encoder("bert masked", "Bert", "ForMaskedLM"),
)
