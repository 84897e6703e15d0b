import numpy as np
def pair_codes(a,b,ma,mb):
    key=a*mb+b
    u,inv=np.unique(key,return_inverse=True)
    return inv.astype(np.int64), np.column_stack([u//mb,u%mb]).astype(np.int64)
