import os

# Tests spend their time compiling tiny programs, and optimising those costs more than it saves. Their processes inherit
# it.
os.environ.setdefault(
  'XLA_FLAGS',
  '--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1',
)
